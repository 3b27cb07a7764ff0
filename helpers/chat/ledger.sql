-- The ledger's tables, version 3. `dollars` is what an attempt cost or, while that is not known, the most that it can cost;
-- null where the model's price is unknown. Triggers keep their sum, so that a budget needs no look at other rows.

create table if not exists attempt (
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
  client text,                  -- the file whose lock says that whoever asks is alive
  batch integer,                -- the row of table batch
  dollars real
);
create index if not exists of_key on attempt(key);
create index if not exists of_batch on attempt(batch) where batch is not null;
create index if not exists unpriced on attempt(model) where dollars is null;

create table if not exists spent (dollars real not null);
insert into spent select 0 where not exists (select * from spent);
create trigger if not exists reserve after insert on attempt when new.dollars > 0 begin
  update spent set dollars = dollars + new.dollars; end;
create trigger if not exists settle after update of dollars on attempt begin
  update spent set dollars = dollars + coalesce(new.dollars, 0) - coalesce(old.dollars, 0); end;

create table if not exists pace (
  endpoint text not null,
  model text not null,
  unit text not null,           -- requests, tokens
  due real not null,            -- Unix time at which the last request was due
  amount real not null,         -- how much it was
  primary key (endpoint, model, unit)
);

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
