-- The ledger's tables, version 2. `dollars` is what an attempt cost or, while that is not known, the most that it can cost;
-- null where the model's price is unknown. Triggers keep their sum, so that a budget needs no look at other rows.

create table if not exists attempt (
  id integer primary key,
  key text not null,            -- hash of endpoint, body and replicate
  endpoint text not null,
  model text not null,
  role text not null ,          -- teacher, judge, student
  replicate integer not null,
  body text not null,           -- the request, as JSON
  started real not null,        -- Unix time
  ended real,
  state text not null,          -- sent, replied, or why there is no reply
  request_id text,
  prompt_tokens integer,
  completion_tokens integer,
  raw blob,                     -- the reply's bytes as they came
  run text,                     -- of `helpers.stage`
  batch integer,                -- the row of table batch
  dollars real
);
create index if not exists replied on attempt(key) where state = 'replied';
create index if not exists of_run on attempt(run) where run is not null;
create index if not exists of_batch on attempt(batch) where batch is not null;
create index if not exists unpriced on attempt(model) where dollars is null;

create table if not exists spent (dollars real not null);
insert into spent select 0 where not exists (select * from spent);
create trigger if not exists reserve after insert on attempt when new.dollars > 0 begin
  update spent set dollars = dollars + new.dollars; end;
create trigger if not exists settle after update of dollars on attempt begin
  update spent set dollars = dollars + coalesce(new.dollars, 0) - coalesce(old.dollars, 0); end;

create table if not exists batch (
  id integer primary key,
  name text not null,           -- ours, in the batch's metadata at the provider
  endpoint text not null,
  model text not null,
  created real not null,        -- Unix time
  file text,                    -- the provider's name of the uploaded requests; null: not uploaded, as far as we know
  batch text,                   -- the provider's name of the batch; null: not created, as far as we know
  state text not null           -- open, or how it ended
);
