//! The share store alone: puts of 256 KiB with 1, 8 and 32 in progress at once, and small verified reads.
//!
//! `cargo bench -p rain-benches --bench shares`

use rain_types::{BlockId, CodeSpec, Codec, SessionId, ShareIndex};
use std::sync::mpsc;
use std::time::Instant;
use storaged::share::{ShareKey, ShareMeta, ShareStore, StoreOptions};

fn meta(seq: u64, share_len: u32) -> ShareMeta {
    let key = ShareKey { block: BlockId { session: SessionId(1), seq }, index: ShareIndex(0) };
    ShareMeta { key, code: CodeSpec { codec: Codec::Rdp, k: 4, m: 2 }, block_len: share_len * 4, share_len }
}

fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches too, without this flag; then nothing is measured.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let store = ShareStore::open(folder.path(), StoreOptions::default())?;
    let payload = bytes::Bytes::from(vec![7u8; 256 << 10]);
    let crcs = rain_client::block::chunk_checksums(&payload);
    let mut seq = 0;
    for in_progress in [1usize, 8, 32] {
        let (send, receive) = mpsc::channel();
        let (begun, count) = (Instant::now(), 400);
        for at in 0..count + in_progress {
            if at >= in_progress {
                let result: Result<(), storaged::share::PutError> = receive.recv()?;
                result?;
            }
            if at < count {
                seq += 1;
                let send = send.clone();
                store.put_with(meta(seq, 256 << 10), crcs.clone(), payload.clone(), move |result| {
                    let _ = send.send(result);
                });
            }
        }
        let rate = count as f64 * payload.len() as f64 / begun.elapsed().as_secs_f64() / 1e6;
        eprintln!("puts of 256 KiB, {in_progress} in progress: {rate:.0} MB/s durable");
    }
    let (begun, count) = (Instant::now(), 20_000u64);
    for at in 0..count {
        let offset = (at * 7919 % 63) as u32 * 4096;
        store.get(meta(1 + at % seq, 0).key, offset, 4096)?;
    }
    eprintln!("verified reads of 4 KiB: {:.0}/s", count as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
