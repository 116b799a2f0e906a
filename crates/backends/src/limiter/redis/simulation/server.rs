//! A simulated Redis: real scripts on simulated data, at a simulated time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mlua::{Function, Lua, MultiValue, Value as LuaValue, Variadic};
use parking_lot::Mutex;
use redis::{Arg, Cmd, Value};
use tokio::time::Instant;

/// Its time at the beginning, in milliseconds.
pub(super) const BEGINS: u64 = 1_700_000_000_000;
/// How long a replica's past is kept.
const HISTORY: Duration = Duration::from_secs(3);

#[derive(Clone)]
enum Entry {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// Scores by member.
    Set(BTreeMap<Vec<u8>, f64>),
}

/// What is stored, and until when, in milliseconds.
type Data = BTreeMap<Vec<u8>, (Entry, u64)>;

/// A server.
pub(super) struct Server {
    lua: Lua,
    /// By digest.
    scripts: Mutex<HashMap<Vec<u8>, Function>>,
    store: Arc<Mutex<Store>>,
}

struct Store {
    epoch: Instant,
    /// The time at `epoch`, in milliseconds.
    begins: u64,
    data: Data,
    history: VecDeque<(Instant, Data)>,
    /// Number of steps that were made.
    steps: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        let store = Arc::new(Mutex::new(Store {
            epoch: Instant::now(),
            begins: BEGINS,
            data: Data::new(),
            history: VecDeque::new(),
            steps: 0,
        }));
        let lua = Lua::new();
        install(&lua, &store).expect("functions can be set");
        Self {
            lua,
            scripts: Mutex::default(),
            store,
        }
    }

    /// Number of steps that nodes made for callers.
    pub(super) fn steps(&self) -> u64 {
        self.store.lock().steps
    }

    /// Loses everything.
    pub(super) fn clear(&self) {
        self.store.lock().data.clear();
        self.scripts.lock().clear();
    }

    /// Becomes as it was that long ago.
    pub(super) fn lose_last(&self, age: Duration) {
        let mut store = self.store.lock();
        let then = Instant::now() - age;
        let kept = store.history.iter().take_while(|(at, _)| *at <= then);
        let data = kept.last().map(|(_, data)| data.clone());
        store.data = data.unwrap_or_default();
        store.history.clear();
    }

    /// Runs `EVALSHA` or `EVAL`.
    pub(super) fn run(&self, command: &Cmd) -> Result<Value, redis::RedisError> {
        let args: Vec<&[u8]> = command
            .args_iter()
            .filter_map(|arg| match arg {
                Arg::Simple(bytes) => Some(bytes),
                _ => None,
            })
            .collect();
        let [name, script, count, rest @ ..] = args.as_slice() else {
            return error("ERR unknown command");
        };
        let count: usize = String::from_utf8_lossy(count).parse().unwrap_or(0);
        let function = match *name {
            b"EVAL" => {
                let function = self.lua.load(*script).into_function();
                let function = function.expect("a script that compiles");
                let source = String::from_utf8_lossy(script);
                let digest = redis::Script::new(&source).get_hash().as_bytes().to_vec();
                self.scripts.lock().insert(digest, function.clone());
                function
            }
            _ => match self.scripts.lock().get(*script) {
                Some(function) => function.clone(),
                None => return error("NOSCRIPT No matching script."),
            },
        };
        let (keys, argv) = rest.split_at(count);
        // Heartbeats have two keys.
        self.store.lock().steps += u64::from(count == 1);
        let reply = self
            .call(&function, keys, argv)
            .expect("no error in the script");
        self.remember();
        reply
    }

    fn call(
        &self,
        function: &Function,
        keys: &[&[u8]],
        argv: &[&[u8]],
    ) -> mlua::Result<Result<Value, redis::RedisError>> {
        let strings = |values: &[&[u8]]| {
            let texts = values.iter().map(|value| self.lua.create_string(value));
            texts.collect::<mlua::Result<Vec<_>>>()
        };
        self.lua.globals().set("KEYS", strings(keys)?)?;
        self.lua.globals().set("ARGV", strings(argv)?)?;
        let value: LuaValue = function.call(())?;
        if let LuaValue::Table(table) = &value
            && let Some(text) = table.get::<Option<String>>("err")?
        {
            return Ok(error(&text));
        }
        Ok(Ok(to_redis(&value)?))
    }

    fn remember(&self) {
        let mut store = self.store.lock();
        let now = Instant::now();
        let data = store.data.clone();
        store.history.push_back((now, data));
        // One that is older than all others is needed.
        while store
            .history
            .get(1)
            .is_some_and(|(at, _)| now - *at > HISTORY)
        {
            store.history.pop_front();
        }
    }
}

fn error(text: &str) -> Result<Value, redis::RedisError> {
    let line = format!("-{text}\r\n");
    match redis::parse_redis_value(line.as_bytes())? {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

/// As Redis converts what a script returns.
fn to_redis(value: &LuaValue) -> mlua::Result<Value> {
    Ok(match value {
        LuaValue::Integer(number) => Value::Int(*number),
        LuaValue::Number(number) => Value::Int(*number as i64),
        LuaValue::String(text) => Value::BulkString(text.as_bytes().to_vec()),
        LuaValue::Table(table) => {
            let items = table.sequence_values::<LuaValue>();
            let items = items.map(|item| to_redis(&item?));
            Value::Array(items.collect::<mlua::Result<_>>()?)
        }
        _ => Value::Nil,
    })
}

/// What scripts call.
fn install(lua: &Lua, store: &Arc<Mutex<Store>>) -> mlua::Result<()> {
    let calls = lua.create_table()?;
    let store = Arc::clone(store);
    calls.set(
        "call",
        lua.create_function(move |lua, args: Variadic<LuaValue>| {
            let args: Vec<Vec<u8>> = args
                .iter()
                .map(|arg| {
                    Ok(lua
                        .coerce_string(arg.clone())?
                        .expect("text")
                        .as_bytes()
                        .to_vec())
                })
                .collect::<mlua::Result<_>>()?;
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            to_lua(lua, store.lock().call(&args))
        })?,
    )?;
    calls.set(
        "error_reply",
        lua.create_function(|lua, text: String| {
            let table = lua.create_table()?;
            table.set("err", text)?;
            Ok(table)
        })?,
    )?;
    lua.globals().set("redis", calls)?;
    let structs = lua.create_table()?;
    structs.set("pack", lua.create_function(pack)?)?;
    structs.set("unpack", lua.create_function(unpack)?)?;
    lua.globals().set("struct", structs)
}

fn to_lua(lua: &Lua, value: Value) -> mlua::Result<LuaValue> {
    Ok(match value {
        Value::Int(number) => LuaValue::Number(number as f64),
        Value::BulkString(bytes) => LuaValue::String(lua.create_string(bytes)?),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| to_lua(lua, item));
            let items = items.collect::<mlua::Result<Vec<_>>>()?;
            LuaValue::Table(lua.create_sequence_from(items)?)
        }
        // As Redis converts nil for a script.
        _ => LuaValue::Boolean(false),
    })
}

impl Store {
    fn now_ms(&self) -> u64 {
        let elapsed = Instant::now() - self.epoch;
        self.begins + elapsed.as_millis() as u64
    }

    fn call(&mut self, args: &[&[u8]]) -> Value {
        let now = self.now_ms();
        self.data.retain(|_, (_, ends)| *ends > now);
        let number = |text: &[u8]| String::from_utf8_lossy(text).parse::<f64>().unwrap_or(0.0);
        let text = |text: String| Value::BulkString(text.into_bytes());
        match args {
            [b"TIME"] => {
                let micros = (Instant::now() - self.epoch).subsec_micros() % 1000;
                let micros = now % 1000 * 1000 + u64::from(micros);
                Value::Array(vec![
                    text((now / 1000).to_string()),
                    text(micros.to_string()),
                ])
            }
            [b"GET", key] => match self.data.get(*key) {
                Some((Entry::Text(value), _)) => Value::BulkString(value.clone()),
                _ => Value::Nil,
            },
            [b"SET", key, value, b"PX", ttl] => {
                let entry = (Entry::Text(value.to_vec()), now + number(ttl) as u64);
                self.data.insert(key.to_vec(), entry);
                Value::Int(1)
            }
            [b"PEXPIRE", key, ttl] => {
                if let Some((_, ends)) = self.data.get_mut(*key) {
                    *ends = now + number(ttl) as u64;
                }
                Value::Int(1)
            }
            [name, key, rest @ ..] if name.starts_with(b"H") => self.hash(name, key, rest),
            [name, key, rest @ ..] if name.starts_with(b"Z") => {
                let bounds: Vec<f64> = rest
                    .iter()
                    .map(|bound| match *bound {
                        b"+inf" => f64::INFINITY,
                        b"-inf" => f64::NEG_INFINITY,
                        bound => number(bound),
                    })
                    .collect();
                self.set(name, key, rest, &bounds)
            }
            _ => panic!(
                "{:?}",
                args.iter()
                    .map(|arg| String::from_utf8_lossy(arg))
                    .collect::<Vec<_>>()
            ),
        }
    }

    fn hash(&mut self, name: &[u8], key: &[u8], rest: &[&[u8]]) -> Value {
        let new = || (Entry::Hash(BTreeMap::new()), u64::MAX);
        let (Entry::Hash(hash), _) = self.data.entry(key.to_vec()).or_insert_with(new) else {
            panic!("not a hash");
        };
        match (name, rest) {
            (b"HGET", [field]) => hash
                .get(*field)
                .map_or(Value::Nil, |value| Value::BulkString(value.clone())),
            (b"HEXISTS", [field]) => Value::Int(hash.contains_key(*field).into()),
            (b"HDEL", [field]) => Value::Int(hash.remove(*field).is_some().into()),
            (b"HSET", pairs) => {
                for pair in pairs.chunks(2) {
                    hash.insert(pair[0].to_vec(), pair[1].to_vec());
                }
                Value::Int(1)
            }
            (b"HGETALL", []) => {
                let items = hash
                    .iter()
                    .flat_map(|(field, value)| [field.clone(), value.clone()]);
                Value::Array(items.map(Value::BulkString).collect())
            }
            _ => panic!("{}", String::from_utf8_lossy(name)),
        }
    }

    fn set(&mut self, name: &[u8], key: &[u8], rest: &[&[u8]], bounds: &[f64]) -> Value {
        let new = || (Entry::Set(BTreeMap::new()), u64::MAX);
        let (Entry::Set(set), _) = self.data.entry(key.to_vec()).or_insert_with(new) else {
            panic!("not a set");
        };
        match name {
            b"ZADD" => {
                set.insert(rest[1].to_vec(), bounds[0]);
                Value::Int(1)
            }
            b"ZREMRANGEBYSCORE" => {
                set.retain(|_, score| !(bounds[0]..=bounds[1]).contains(score));
                Value::Int(1)
            }
            b"ZRANGEBYSCORE" => {
                let found = set
                    .iter()
                    .filter(|(_, score)| (bounds[0]..=bounds[1]).contains(*score));
                Value::Array(
                    found
                        .map(|(member, _)| Value::BulkString(member.clone()))
                        .collect(),
                )
            }
            _ => panic!("{}", String::from_utf8_lossy(name)),
        }
    }
}

/// The sizes in a format of Redis's `struct` library: number of bytes of an unsigned integer, big-endian; 0: a double.
fn sizes(format: &str) -> Vec<usize> {
    let mut sizes = Vec::new();
    for sign in format.chars() {
        match sign {
            '>' => {}
            'B' => sizes.push(1),
            'd' => sizes.push(0),
            'I' => sizes.push(4),
            digit => *sizes.last_mut().expect("a size after I") = digit as usize - '0' as usize,
        }
    }
    sizes
}

fn pack(lua: &Lua, (format, values): (String, Variadic<f64>)) -> mlua::Result<mlua::LuaString> {
    let mut bytes = Vec::new();
    for (size, value) in sizes(&format).into_iter().zip(values.iter()) {
        match size {
            0 => bytes.extend(value.to_be_bytes()),
            size => {
                let fits =
                    *value >= 0.0 && *value < 256_f64.powi(size as i32) && value.fract() == 0.0;
                assert!(fits, "{value} in {size} bytes of {format}");
                bytes.extend(&(*value as u64).to_be_bytes()[8 - size..]);
            }
        }
    }
    lua.create_string(bytes)
}

fn unpack(_: &Lua, args: (String, mlua::LuaString, Option<usize>)) -> mlua::Result<MultiValue> {
    let (format, bytes, at) = args;
    let bytes = bytes.as_bytes();
    let mut at = at.unwrap_or(1) - 1;
    let mut values = MultiValue::new();
    for size in sizes(&format) {
        let length = if size == 0 { 8 } else { size };
        let part = bytes.get(at..at + length).expect("a value of that length");
        let mut wide = [0; 8];
        wide[8 - length..].copy_from_slice(part);
        values.push_back(LuaValue::Number(match size {
            0 => f64::from_be_bytes(wide),
            _ => u64::from_be_bytes(wide) as f64,
        }));
        at += length;
    }
    values.push_back(LuaValue::Number((at + 1) as f64));
    Ok(values)
}
