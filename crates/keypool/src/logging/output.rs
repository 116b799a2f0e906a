//! Standard error, written in batches: each thread collects its lines, and one thread writes those of all.
//!
//! A process that is killed loses what was logged in the last moment, at most; one that ends or panics loses nothing.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use thread_local::ThreadLocal;

/// A line waits for others for so long.
const BATCH_FOR: Duration = Duration::from_millis(20);
/// A thread that has collected so many bytes writes them itself.
const MAX_BATCH: usize = 256 * 1024;

static BATCHES: LazyLock<ThreadLocal<Mutex<Vec<u8>>>> = LazyLock::new(ThreadLocal::new);
/// Whether the writer knows that there is something to write.
static IS_FILLED: AtomicBool = AtomicBool::new(false);
static WRITER: OnceLock<Thread> = OnceLock::new();
/// One at a time writes, so that lines stay whole and a thread's own in order.
static WRITING: Mutex<()> = Mutex::new(());

/// Starts the thread that writes. Without it, lines are written one by one.
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
        // Set already where a log was started before, as in tests.
        let _ = WRITER.set(writer.thread().clone());
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush();
        report(panic);
    }));
}

/// Puts a line (with its end) where it will be written; at once, if it is urgent.
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

/// Writes what all threads have collected.
pub(crate) fn flush() {
    let _one_at_a_time = WRITING.lock();
    for batch in BATCHES.iter() {
        let collected = std::mem::take(&mut *batch.lock());
        if collected.is_empty() {
            continue;
        }
        // Nobody is left to tell that standard error cannot be written.
        let _ = std::io::stderr().write_all(&collected);
        let mut emptied = collected;
        emptied.clear();
        // Given back for the next lines, unless some came meanwhile or it grew out of proportion.
        let mut batch = batch.lock();
        if batch.is_empty() && emptied.capacity() <= MAX_BATCH {
            *batch = emptied;
        }
    }
}
