//! What changes in a call's body before it goes to a provider.

use std::ops::Range;

use bytes::Bytes;
use keypool_core::pool::Member;
use keypool_providers::dialect::Dialect;
use keypool_providers::response::StreamKind;
use keypool_providers::{peek, usage};

use super::{Call, ModelLocation};
use crate::upstream::RequestBody;

impl Call<'_> {
    /// The body for a key, with its model in place of the client's. All other bytes stay as they came, except that a stream's
    /// usage is asked for where a limit needs it.
    pub(crate) fn body_for(&self, member: &Member, model: &str, dialect: &Dialect) -> RequestBody {
        let body = self.body();
        let edits = [
            self.model_edit(member, model),
            self.usage_edit(dialect),
            self.key_field.clone().map(|field| (field, Bytes::new())),
        ];
        if edits.iter().all(Option::is_none) {
            return RequestBody::new([body.clone()]);
        }
        let mut edits: Vec<_> = edits.into_iter().flatten().collect();
        edits.sort_unstable_by_key(|(range, _)| range.start);
        let (mut pieces, mut from) = (Vec::with_capacity(2 * edits.len() + 1), 0);
        for (range, text) in edits {
            pieces.push(body.slice(from..range.start));
            pieces.push(text);
            from = range.end;
        }
        pieces.push(body.slice(from..));
        RequestBody::new(pieces)
    }

    /// The body as it came, without a credential in it.
    pub(crate) fn body_without_key(&self) -> Bytes {
        let body = self.body();
        match &self.key_field {
            None => body.clone(),
            Some(field) => [&body[..field.start], &body[field.end..]].concat().into(),
        }
    }

    /// What replaces the model's name in the body.
    fn model_edit(&self, member: &Member, model: &str) -> Option<(Range<usize>, Bytes)> {
        let named = self.model.as_ref()?;
        let is_replaced = named.name != model && (member.model.is_some() || !model.is_empty());
        match &named.at {
            ModelLocation::Body(range) if is_replaced => {
                let text = peek::quoted(&[named.prefix, model].concat());
                Some((range.clone(), text))
            }
            ModelLocation::Form(range) if is_replaced => {
                Some((range.clone(), Bytes::copy_from_slice(model.as_bytes())))
            }
            _ => None,
        }
    }

    /// What makes the provider report the usage of a stream, if a limit needs it and the client did not ask.
    fn usage_edit(&self, dialect: &Dialect) -> Option<(Range<usize>, Bytes)> {
        let is_chat = || {
            let kind = StreamKind::of(self.protocol(), self.path());
            self.generates && kind == Some(StreamKind::Chat)
        };
        if self.tokens.is_none() || !dialect.needs_include_usage || !is_chat() {
            return None;
        }
        let edit = usage::include_usage(self.body(), &self.fields)?;
        Some((edit.range, Bytes::from_static(edit.text.as_bytes())))
    }

    /// Whether the provider is asked for the usage of a stream although the client did not ask.
    pub(crate) fn adds_usage(&self, dialect: &Dialect) -> bool {
        self.usage_edit(dialect).is_some()
    }
}
