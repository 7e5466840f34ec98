//! What the operator makes of a bad API server, and of its own sudden end.
//!
//! A real `hearth-operator` talks through a proxy of the test's own ([`proxy`]) to a real API
//! server with the controllers of Kubernetes; there are no nodes, and [`cast`] plays kubelets and
//! users. Each [`scenario`] is played once undisturbed; every disturbed play must come to the
//! same state of the cluster. Run by `tests/faults/run.sh`.
//!
//! That a test can fail is shown by an operator with a planted bug (`hearth-operator-planted`):
//! for each class of faults there is one that its test catches.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod answers;
mod cast;
mod classes;
mod cluster;
mod kills;
mod leaders;
mod operator;
mod play;
mod proxy;
mod scenario;
mod state;
mod watches;
