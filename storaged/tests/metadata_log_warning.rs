//! A torn tail is said. Alone in its program: who writes the log lines is decided once for a program, and
//! other tests would meet the line before.

use std::io;
use std::sync::{Arc, Mutex};
use storaged::disk::DiskMedia;
use storaged::metadata::CommandLog;
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 16 << 10;

#[test]
fn a_torn_tail_is_said() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = TempDir::new().unwrap();
    let mut log = CommandLog::open(Arc::new(DiskMedia), dir.path(), SEGMENT_BYTES, 1).unwrap();
    log.append(&[(1, b"one"), (2, b"two"), (3, b"three")]).unwrap();
    log.append(&[(4, &[5; 64])]).unwrap();
    drop(log);
    let file = dir.path().join("log-0000000000000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] = 0;
    std::fs::write(&file, &bytes).unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let log = tracing::subscriber::with_default(subscriber, || {
        CommandLog::open(Arc::new(DiskMedia), dir.path(), SEGMENT_BYTES, 1).unwrap()
    });
    assert_eq!(log.next_index(), 4);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("WARN") && text.contains("cut off") && text.contains("log-0000000000000001.seg"),
        "{text}"
    );
}
