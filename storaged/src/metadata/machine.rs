//! The deterministic machine that the metadata service replicates, over an ordered store. The daemon has the
//! namespace; tests bring smaller machines.

use rain_namespace::command::{Applied, Entry, Request};
use rain_namespace::kv::{KvRead, KvTxn};
use rain_namespace::query::{Answered, Query};
use rain_namespace::wire;
use std::fmt::Debug;

/// A deterministic machine. The same entries in the same order give the same store, on every node and in
/// every replay.
pub trait Machine: Debug + Send + Sync + 'static {
    /// Returns the bytes of an entry, for the log.
    fn encode(&self, entry: &Entry) -> Vec<u8>;
    /// Returns the entry of these bytes, or what is wrong with them.
    fn decode(&self, bytes: &[u8]) -> Result<Entry, String>;
    /// Returns the bytes that a request adds to an entry, about.
    fn request_bytes(&self, request: &Request) -> usize;
    /// Applies an entry; returns one outcome for each request.
    fn apply(&self, kv: &mut dyn KvTxn, entry: &Entry) -> Vec<Applied>;
    /// Answers a query.
    fn answer(&self, kv: &dyn KvRead, query: &Query) -> Answered;
}

/// The namespace of RAIN.
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
