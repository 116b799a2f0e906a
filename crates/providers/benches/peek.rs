//! How long it takes to look at a request's body: a small call, a picture in base64, a long text full of escapes. Beside
//! each, serde_json passing over the same body without keeping any of it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keypool_providers::peek::peek;
use serde::de::IgnoredAny;

fn bodies() -> [(&'static str, String); 4] {
    let small = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello to the world in five languages."}],"temperature":0.7,"stream":true,"max_tokens":100}"#;
    let picture = "iVBORw0KGgoAAAANSUhEUgAA/+8f".repeat((1 << 20) / 28);
    let escapes = r#"She said: \"No.\"\n\tThen 1 < 2 \u2014 or not?\\\n"#.repeat((200 << 10) / 50);
    let chinese = "今天天气很好，我们去公园走走吧。".repeat((200 << 10) / 48);
    let text = |text: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o-mini"}}"#)
    };
    let image = format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":[{{"type":"text","text":"What is this?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}]}}]}}"#
    );
    [
        ("small", small.to_owned()),
        ("1 MiB base64", image),
        ("200 KiB with escapes", text(&escapes)),
        ("200 KiB Chinese", text(&chinese)),
    ]
}

fn peeking(c: &mut Criterion) {
    let mut group = c.benchmark_group("peek");
    for (name, body) in bodies() {
        let body = body.as_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("peek", name), |b| {
            b.iter(|| peek(black_box(body)));
        });
        group.bench_function(BenchmarkId::new("serde_json", name), |b| {
            b.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(body)));
        });
    }
    group.finish();
}

criterion_group!(benches, peeking);
criterion_main!(benches);
