//! Real ranks in processes of their own, over Gloo on the loopback interface,
//! and the operators against plain tensor code.

mod autograd;
mod collectives;
mod decoder;
mod faults;
mod frozen;
mod fused;
mod head;
mod narrow;
mod ops;
mod paged;
mod parallel;
mod qlinear;
mod ranks;
mod reducer;
