//! The events that end a node.

/// Waits for SIGTERM or SIGINT, or, with `exit_with_parent`, for the end of standard input.
pub(super) async fn wait_for_stop(exit_with_parent: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let signalled = async {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be caught; this node stops only by SIGKILL");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    let parent_gone = async {
        if !exit_with_parent {
            return std::future::pending().await;
        }
        // On a thread of its own: a read of standard input cannot be cancelled, and must not hold up the
        // runtime's end.
        let (gone, went) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = gone.send(());
        });
        let _ = went.await;
        tracing::info!("standard input ended: the parent is gone");
    };
    tokio::select! {
        () = signalled => {}
        () = parent_gone => {}
    }
}
