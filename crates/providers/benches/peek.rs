//! The cost of looking at a request's body: a small call, pictures in base64, a long chat, texts full of escapes.
//!
//! Beside each, serde_json passing over the same body without keeping any of it: the floor for any reader built on it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keypool_providers::peek::peek;
use serde::de::IgnoredAny;

fn bodies() -> [(&'static str, String); 6] {
    let small = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello to the world in five languages."}],"temperature":0.7,"stream":true,"max_tokens":100}"#;
    let escapes = r#"She said: \"No.\"\n\tThen 1 < 2 \u2014 or not?\\\n"#.repeat((200 << 10) / 50);
    let chinese = "今天天气很好，我们去公园走走吧。".repeat((200 << 10) / 48);
    let text = |text: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o-mini"}}"#)
    };
    [
        ("small", small.to_owned()),
        ("1 MiB base64", image(1 << 20)),
        ("4 MiB base64", image(4 << 20)),
        ("100 messages, 200 KB", chat()),
        ("200 KiB with escapes", text(&escapes)),
        ("200 KiB Chinese", text(&chinese)),
    ]
}

fn image(bytes: usize) -> String {
    let picture = "iVBORw0KGgoAAAANSUhEUgAA/+8f".repeat(bytes / 28);
    format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":[{{"type":"text","text":"What is this?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}]}}]}}"#
    )
}

fn chat() -> String {
    let paragraph = r#"The request path has ten phases, and each of them is a function of its own. \"Why?\" you may ask.\n\nBecause a reader meets one idea at a time, and a test can name the phase that broke.\n"#;
    let content = paragraph.repeat(2000 / paragraph.len());
    let message = |n: usize| {
        let role = if n.is_multiple_of(2) {
            "user"
        } else {
            "assistant"
        };
        format!(r#"{{"role":"{role}","content":"{content}"}}"#)
    };
    let messages: Vec<String> = (0..100).map(message).collect();
    format!(
        r#"{{"model":"gpt-4o-mini","stream":true,"messages":[{}]}}"#,
        messages.join(",")
    )
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
