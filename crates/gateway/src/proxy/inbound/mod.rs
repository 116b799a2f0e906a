//! What comes in: the endpoint that a request matches, who calls, and the call with its body.

mod auth;
mod body;
mod call;
mod cors;
mod endpoint;
mod jobs_address;
mod origin_check;
mod own_address;
mod tokens;
mod unread_body;

pub(super) use auth::{Caller, ClientRequest};
pub(super) use body::{BodyReader, ReceivedBody};
pub(super) use call::{Call, key_in_body};
pub(super) use cors::Cors;
pub(super) use endpoint::MatchedEndpoint;
pub(super) use jobs_address::JobsAddress;
pub(super) use own_address::{BATCH_ID, FILE_ID, OwnAddress};
pub(super) use tokens::TokenGuess;
pub(super) use unread_body::UnreadBody;
