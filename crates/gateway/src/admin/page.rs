//! Lists in pages.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Number of items in a page if the client does not say.
const DEFAULT_LIMIT: usize = 100;
/// Maximum number of items in a page.
const MAX_LIMIT: usize = 1000;

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Maximum number of items, from 1 to 1000. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// The `cursor` of the next page; null at the end.
    #[schema(required)]
    pub(super) next: Option<String>,
}

/// The maximum number of items for what the client says.
pub(super) fn checked_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    match (1..=MAX_LIMIT).contains(&limit) {
        true => Ok(limit),
        false => Err(Problem::invalid_query(format!(
            "`limit` must be from 1 to {MAX_LIMIT}"
        ))),
    }
}

impl PageParams {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        checked_limit(self.limit)
    }

    pub(super) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The page of `all`, sorted by name. Only what is on it is shown.
    pub(super) fn of<A, T>(
        &self,
        mut all: Vec<(String, A)>,
        show: impl FnMut(A) -> T,
    ) -> Result<Page<T>, Problem> {
        let limit = self.limit()?;
        all.sort_by(|one, other| one.0.cmp(&other.0));
        if let Some(after) = &self.cursor {
            all.retain(|(name, _)| name > after);
        }
        let has_more = all.len() > limit;
        all.truncate(limit);
        let next = all
            .last()
            .filter(|_| has_more)
            .map(|(name, _)| name.clone());
        Ok(Page {
            items: all.into_iter().map(|(_, one)| one).map(show).collect(),
            next,
        })
    }
}
