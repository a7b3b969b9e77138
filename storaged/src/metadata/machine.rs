//! What the keeper drives: a deterministic machine over an ordered store. The namespace is the one that
//! counts; tests bring smaller ones.

use rain_namespace::command::{Applied, Entry, Request};
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::query::{Answered, Query};
use rain_namespace::wire;
use std::fmt::Debug;

/// A deterministic machine. The same entries in the same order give the same store, on every node and in every replay.
pub trait Machine: Debug + Send + Sync + 'static {
    /// Bytes of an entry, for the log.
    fn encode(&self, entry: &Entry) -> Vec<u8>;
    /// The entry back; what is wrong, if it is none.
    fn decode(&self, bytes: &[u8]) -> Result<Entry, String>;
    /// About how many bytes a request adds to an entry.
    fn request_bytes(&self, request: &Request) -> usize;
    /// Applies an entry; one result for each request.
    fn apply(&self, kv: &mut dyn KvTxn, entry: &Entry) -> Vec<Applied>;
    /// Answers a query.
    fn answer(&self, kv: &dyn KvRead, query: &Query) -> Answered;
}

/// The namespace itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespace;

impl Machine for Namespace {
    fn encode(&self, entry: &Entry) -> Vec<u8> {
        wire::encode(entry)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Entry, String> {
        wire::decode(bytes).map_err(|error| error.to_string())
    }

    fn request_bytes(&self, request: &Request) -> usize {
        wire::encode(request).len()
    }

    fn apply(&self, kv: &mut dyn KvTxn, entry: &Entry) -> Vec<Applied> {
        rain_namespace::apply_entry(kv, entry)
    }

    fn answer(&self, kv: &dyn KvRead, query: &Query) -> Answered {
        rain_namespace::query::answer(kv, query)
    }
}
