//! In which order jobs are claimed.
//!
//! Callers take turns by self-clocked fair queueing (Golestani 1994): a job's turn is one cost after the caller's job before
//! it, or after the job that was claimed last, whichever is later; jobs are claimed in the order of their turns. So a caller
//! with one job waits for one job of each other caller, however many those have.

use std::collections::HashMap;

use keypool_core::store::StoreError;
use serde_json::json;

use super::transaction::JobsWrite;
use crate::store::convert::count;

/// Jobs that share a turn: of one pool, caller and priority.
pub(in crate::store) type Flow = (String, String, &'static str);

/// The turns of the jobs that are added.
pub(in crate::store) struct Turns {
    /// Of each pool, the turn of the job that was claimed last.
    claimed: HashMap<String, i64>,
    /// Of each flow, the turn of its newest job, and whether this change has set it.
    newest: HashMap<Flow, (i64, bool)>,
}

impl Turns {
    /// Reads what is known of these flows.
    pub(in crate::store) async fn read(
        write: &mut JobsWrite,
        flows: Vec<Flow>,
    ) -> Result<Self, StoreError> {
        let mut newest: HashMap<Flow, (i64, bool)> = HashMap::new();
        for flow in flows {
            newest.entry(flow).or_default();
        }
        let rows = newest.keys().map(
            |(pool, caller, priority)| json!({ "pool": pool, "caller": caller, "priority": priority }),
        );
        let rows = write.fetch_rows(TURNS, rows.collect(), vec![]).await?;
        let mut claimed = HashMap::new();
        for mut row in rows {
            let (pool, caller, priority) = (row.text()?, row.text()?, row.text()?);
            claimed.insert(pool.clone(), row.int()?);
            let turn = row.int()?;
            let mut flows = newest.iter_mut();
            let flow =
                flows.find(|(flow, _)| (&flow.0, &flow.1, flow.2) == (&pool, &caller, &*priority));
            if let Some((_, newest)) = flow {
                newest.0 = turn;
            }
        }
        Ok(Self { claimed, newest })
    }

    /// The turn of one more job of this flow and cost.
    pub(in crate::store) fn next(&mut self, flow: Flow, cost: u64) -> i64 {
        let claimed = self.claimed.get(&flow.0).copied().unwrap_or_default();
        let newest = self.newest.entry(flow).or_default();
        let turn = claimed.max(newest.0) + count(cost);
        *newest = (turn, true);
        turn
    }

    /// Stores the newest turns.
    pub(in crate::store) async fn store(&self, write: &mut JobsWrite) -> Result<(), StoreError> {
        let changed = self.newest.iter().filter(|(_, (_, is_new))| *is_new);
        let rows = changed.map(|((pool, caller, priority), (turn, _))| {
            json!({ "pool": pool, "caller": caller, "priority": priority, "turn": turn })
        });
        let rows = rows.collect();
        write.execute_rows(SET_FLOWS, rows, vec![]).await.map(drop)
    }
}

const TURNS: &str = "
SELECT r.value->>'pool', r.value->>'caller', r.value->>'priority', COALESCE(p.turn, 0), COALESCE(f.turn, 0)
FROM {rows} AS r LEFT JOIN job_pools AS p ON p.pool = (r.value->>'pool')
LEFT JOIN job_flows AS f ON f.pool = (r.value->>'pool') AND f.caller = (r.value->>'caller')
  AND f.priority = (r.value->>'priority')";

const SET_FLOWS: &str = "
INSERT INTO job_flows (pool, caller, priority, turn)
SELECT r.value->>'pool', r.value->>'caller', r.value->>'priority', CAST(r.value->>'turn' AS BIGINT)
FROM {rows} AS r WHERE TRUE
ON CONFLICT (pool, caller, priority) DO UPDATE SET turn = excluded.turn";
