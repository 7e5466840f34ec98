//! Ctrl-C, SIGTERM and SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Someone wants the run to stop.
#[derive(Debug)]
pub(super) struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    /// From now on signals are told here instead of ending the process.
    pub(super) fn listen() -> std::io::Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    /// Waits for the next signal.
    pub(super) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
