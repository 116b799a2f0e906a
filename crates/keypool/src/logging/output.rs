//! Writes the log to standard error in batches: each thread collects its lines, and one thread writes them all.
//!
//! A process that is killed loses at most the lines of the last 20 ms. One that exits or panics loses nothing.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use thread_local::ThreadLocal;

/// How long lines are collected before they are written.
const BATCH_FOR: Duration = Duration::from_millis(20);
/// A thread that has collected this many bytes writes them itself.
const MAX_BATCH: usize = 256 * 1024;

static BATCHES: LazyLock<ThreadLocal<Mutex<Vec<u8>>>> = LazyLock::new(ThreadLocal::new);
/// Whether the writer has been woken and has not started writing yet.
static IS_FILLED: AtomicBool = AtomicBool::new(false);
static WRITER: OnceLock<Thread> = OnceLock::new();
/// Held while writing, so that lines stay whole and each thread's lines stay in order.
static WRITING: Mutex<()> = Mutex::new(());

/// Starts the writer thread. Without it, every line is written at once.
pub(super) fn start() {
    let started = std::thread::Builder::new()
        .name("keypool-log".to_owned())
        .spawn(|| {
            loop {
                std::thread::park();
                std::thread::sleep(BATCH_FOR);
                IS_FILLED.store(false, Ordering::SeqCst);
                flush();
            }
        });
    if let Ok(writer) = started {
        // Already set if a log was started before, as in tests.
        let _ = WRITER.set(writer.thread().clone());
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        report(panic);
    }));
}

/// Queues a line (with its line break) for writing. An urgent line is written at once.
pub(super) fn append(line: &[u8], is_urgent: bool) {
    let length = {
        let mut batch = BATCHES.get_or_default().lock();
        batch.extend_from_slice(line);
        batch.len()
    };
    match WRITER.get() {
        Some(writer) if !is_urgent && length < MAX_BATCH => {
            if !IS_FILLED.swap(true, Ordering::SeqCst) {
                writer.unpark();
            }
        }
        _ => flush(),
    }
}

/// Writes the lines of all threads.
pub(crate) fn flush() {
    let _writing = WRITING.lock();
    for batch in BATCHES.iter() {
        let collected = std::mem::take(&mut *batch.lock());
        if collected.is_empty() {
            continue;
        }
        // If standard error cannot be written, there is nowhere to report it.
        let _ = std::io::stderr().write_all(&collected);
        let mut emptied = collected;
        emptied.clear();
        // Reuse the buffer, unless new lines have arrived meanwhile or it has grown too large.
        let mut batch = batch.lock();
        if batch.is_empty() && emptied.capacity() <= MAX_BATCH {
            *batch = emptied;
        }
    }
}
