//! HyperparamSweeps. So far what decides where to look next; nothing runs a sweep yet, and the
//! schema refuses one.

pub mod search;
