//! Checks the file of a batch, and divides it into parts.

use std::collections::HashMap;
use std::sync::Arc;

use keypool_core::store::{BatchPart, BatchRecord, BatchStatus, JobOutcome, StoreError};

use super::check::{CheckedCall, Checker, MAX_CALLS};
use super::input::{Input, Line};
use super::{again, done};
use crate::context::Gateway;
use crate::error::GatewayError;
use crate::jobs::{Claim, StoredCall, StoredPart};
use crate::proxy::pool_of;
use crate::stored::Access;

/// Maximum number of lines in a part.
const PART_LINES: u64 = 200;
/// A part with as many bytes gets no further line.
const PART_BYTES: u64 = 1 << 20;
/// The largest file of a batch, in bytes.
const MAX_FILE: u64 = 200 << 20;

/// Checks the file of a batch, and begins its calls or ends it with what is wrong.
pub(in crate::job_worker) async fn validate(
    gw: &Arc<Gateway>,
    id: &str,
    request: &str,
    claim: &Claim,
) -> JobOutcome {
    let validated = match Validation::begin(gw, id, request).await {
        Ok(Some(validation)) => validation.run(claim).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match validated {
        Ok(()) => done(),
        Err(error) => again(&error),
    }
}

struct Validation<'a> {
    gw: &'a Arc<Gateway>,
    batch: BatchRecord,
    call: StoredCall,
    parts: Vec<BatchPart>,
    /// The part that gets the next line.
    open: Option<OpenPart>,
    /// The pool of each model, or why there is none.
    pools: HashMap<String, Result<Arc<str>, GatewayError>>,
}

struct OpenPart {
    pool: Arc<str>,
    calls: u64,
    at: StoredPart,
}

impl<'a> Validation<'a> {
    async fn begin(
        gw: &'a Arc<Gateway>,
        id: &str,
        request: &str,
    ) -> Result<Option<Self>, StoreError> {
        let batch = gw.note_store(Access::Read, gw.stored.store()?.batch(id).await)?;
        let batch = batch.filter(|batch| batch.status == BatchStatus::Validating);
        let call = StoredCall::from_json(request);
        Ok(batch.zip(call).map(|(batch, call)| Self {
            gw,
            batch,
            call,
            parts: Vec::new(),
            open: None,
            pools: HashMap::new(),
        }))
    }

    async fn run(mut self, claim: &Claim) -> Result<(), StoreError> {
        let gw = self.gw;
        let (id, endpoint) = (self.batch.id.clone(), self.batch.endpoint.clone());
        let mut checker = Checker::new(&endpoint);
        self.check_file(&mut checker).await?;
        let store = gw.stored.store()?;
        let by = (gw.jobs.node, claim.claim());
        if !checker.mistakes.is_empty() {
            let failed = store.fail_batch(by, &id, &checker.mistakes.to_json()).await;
            return gw.note_store(Access::Write, failed).map(drop);
        }
        let mut models = self.pools.keys();
        let model = models.next().filter(|_| models.next().is_none());
        let begun = store
            .begin_batch(by, &id, model.map(String::as_str), &self.parts)
            .await;
        gw.note_store(Access::Write, begun)?;
        self.parts
            .iter()
            .for_each(|part| gw.jobs.note_due(&part.pool));
        Ok(())
    }

    async fn check_file(&mut self, checker: &mut Checker<'_>) -> Result<(), StoreError> {
        let gw = self.gw;
        let file = self.batch.input_file.clone();
        let known = gw.note_store(Access::Read, gw.stored.store()?.file(&file).await)?;
        let Some(known) = known else {
            let message = "the input file is gone: upload it again";
            checker
                .mistakes
                .add(None, "file_not_found", Some("input_file_id"), message);
            return Ok(());
        };
        if known.bytes > MAX_FILE {
            let message = format!("the file of a batch has at most {MAX_FILE} bytes: divide it");
            checker.mistakes.add(None, "file_too_large", None, message);
            return Ok(());
        }
        let mut input = Input::whole(gw, &file);
        while let Some(line) = input.next().await? {
            let call = match line.is_blank() {
                true => None,
                false => checker.check(&line),
            };
            let pool = call
                .as_ref()
                .and_then(|call| self.pool(call, &line, checker));
            self.add(&line, pool.filter(|_| call.is_some()));
            if checker.mistakes.are_enough() {
                return Ok(());
            }
            if checker.calls > MAX_CALLS {
                let message = format!("a batch has at most {MAX_CALLS} calls: divide the file");
                checker
                    .mistakes
                    .add(Some(line.number), "too_many_calls", None, message);
                return Ok(());
            }
        }
        if checker.calls == 0 {
            let message = "the file has no calls: write one JSON object per line";
            checker.mistakes.add(None, "empty_file", None, message);
        }
        self.close();
        Ok(())
    }

    /// The pool that serves a call.
    fn pool(
        &mut self,
        call: &CheckedCall,
        line: &Line,
        checker: &mut Checker<'_>,
    ) -> Option<Arc<str>> {
        let (gw, caller) = (self.gw, self.batch.caller.as_deref());
        let stored = &self.call;
        let pool = self
            .pools
            .entry(call.model.clone())
            .or_insert_with(|| pool_of(gw, stored, call.body.clone(), caller));
        match pool {
            Ok(pool) => Some(Arc::clone(pool)),
            Err(error) => {
                let (code, message) = (error.kind.code(), error.message.clone());
                checker
                    .mistakes
                    .add(Some(line.number), code, Some("body.model"), message);
                None
            }
        }
    }

    /// Adds a line to the open part. `pool`: where its call goes; `None` if it has none.
    fn add(&mut self, line: &Line, pool: Option<Arc<str>>) {
        let is_full = |open: &OpenPart| open.at.lines >= PART_LINES || open.at.bytes >= PART_BYTES;
        if self.open.as_ref().is_some_and(is_full) {
            self.close();
        }
        let is_call = pool.is_some();
        let open = match (&mut self.open, pool) {
            (Some(open), _) => open,
            // Blank lines before the first call.
            (None, None) => return,
            (none, Some(pool)) => none.insert(OpenPart {
                pool,
                calls: 0,
                at: StoredPart {
                    call: self.call.clone(),
                    first_line: line.number,
                    lines: 0,
                    offset: line.offset,
                    bytes: 0,
                },
            }),
        };
        open.calls += u64::from(is_call);
        open.at.lines += 1;
        open.at.bytes += line.length;
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.parts.push(BatchPart {
                pool: open.pool,
                calls: open.calls,
                request: open.at.to_json(),
            });
        }
    }
}
