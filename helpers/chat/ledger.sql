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
  run text,                     -- of `helpers.run.stage`
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
