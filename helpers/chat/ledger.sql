-- The ledger's tables, version 3. `dollars` is what an attempt cost or, while that is not known, the most that it can cost;
-- null where the model's price is unknown. Triggers keep their sum, so that a budget needs no look at other rows.

pragma journal_mode = wal;
pragma application_id = 0x534B4D58;  -- "SKMX": tells our ledger from any other SQLite file
pragma user_version = 3;

create table attempt (
  id integer primary key,
  key text not null,            -- hash of endpoint, body and replicate
  endpoint text not null,
  model text not null,
  role text not null,           -- teacher, judge, student
  replicate integer not null,
  body text not null,           -- the request, as JSON
  started real not null,        -- Unix time
  ended real,
  state text not null,          -- sent, replied, or why there is no answer
  request_id text,
  prompt_tokens integer,
  completion_tokens integer,
  raw blob,                     -- the reply's bytes as they came, but for a key that they repeat
  run text,                     -- of `helpers.run.stage`; outside of a stage a random name
  batch integer,                -- the row of table batch
  dollars real
);
create index of_key on attempt(key);
create index of_batch on attempt(batch) where batch is not null;
create index unpriced on attempt(model) where dollars is null;

-- One process at a time asks a model, so whoever asked the same before and has no reply is gone.
create trigger take_over before insert on attempt begin
  update attempt set state = 'lost' where key = new.key and state = 'sent' and batch is null; end;

create table spent (dollars real not null);
insert into spent values (0);
create trigger reserve after insert on attempt when new.dollars > 0 begin
  update spent set dollars = dollars + new.dollars; end;
create trigger settle after update of dollars on attempt begin
  update spent set dollars = dollars + coalesce(new.dollars, 0) - coalesce(old.dollars, 0); end;

create table batch (
  id integer primary key,
  name text not null,           -- ours, in the batch's metadata at the provider
  endpoint text not null,
  model text not null,
  created real not null,        -- Unix time
  batch text,                   -- the provider's name of the batch; null: not created, as far as we know
  state text not null           -- open, or how it ended
);


-- ---- what is asked of them; each statement has its name above it ----

-- name: open_transaction
begin immediate;

-- name: commit
commit;

-- name: begin (One statement: no other process can ask or spend between the look and the row.)
insert into attempt (key, endpoint, model, role, replicate, body, started, run, batch, dollars, state)
select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'sent'
where not exists (
  select 1 from attempt
  where key = ?1 and (state = 'replied' or (state = 'sent' and batch is not null)))
and (?11 is null or ?10 = 0 or (select round(dollars, 9) from spent) + coalesce(?10, 0) <= ?11)
returning id;

-- name: replied
update attempt set state = 'replied', ended = ?2, raw = ?3, request_id = ?4 where id = ?1;

-- name: settled
update attempt set state = ?2, prompt_tokens = ?3, completion_tokens = ?4, dollars = coalesce(?5, dollars)
where id = ?1;

-- name: failed
update attempt set state = ?2, ended = ?3, dollars = case when ?4 then dollars else 0 end
where id = ?1 and state = 'sent';

-- name: reply
select raw from attempt where key = ?1 and state = 'replied' order by ended, id limit 1;

-- name: begin_batch
insert into batch (name, endpoint, model, created, state) values (?1, ?2, ?3, ?4, 'open') returning id;

-- name: open_batches
select id, name, created, batch from batch where state = 'open' and endpoint = ?1 and model = ?2 order by id;

-- name: attempts_of
select key, id from attempt where batch = ?1;

-- name: name_batch
update batch set batch = ?2 where id = ?1;

-- name: end_batch
update batch set state = ?2 where id = ?1 and state = 'open' returning id;

-- name: spent (A sum of many small numbers.)
select round(dollars, 9) from spent;

-- name: unpriced
select distinct model from attempt where dollars is null;

-- name: price (Without token counts the most that a request can cost, as `helpers.chat.money.most` says.)
update attempt set dollars = (
  coalesce(?2 * prompt_tokens, ?4 * length(cast(body as blob)))
  + ?3 * coalesce(completion_tokens, coalesce(json_extract(body, '$.n'), 1) * coalesce(
    json_extract(body, '$.max_completion_tokens'), json_extract(body, '$.max_tokens'), 0))) / 1e6
where model = ?1 and dollars is null;

-- name: seconds
select avg(ended - started) from (
  select started, ended from attempt
  where state = 'replied' and batch is null and endpoint = ?1 and model = ?2
  order by id desc limit 100);

-- name: summary
select role, model,
  case when state = 'sent' and batch is not null then 'in a batch' else state end state,
  count(distinct key) requests, count(*) attempts,
  sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens,
  case when count(dollars) = count(*) then sum(dollars) end dollars
from attempt where ?1 is null or run = ?1
group by 1, 2, 3 order by 1, 2, 3;

-- name: replies
select role, model, endpoint, replicate, body messages, raw texts, prompt_tokens, completion_tokens, dollars, ended
from attempt where state = 'replied' order by ended, id;
