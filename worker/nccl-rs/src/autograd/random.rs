//! The state of random generators, to draw the same numbers again.

use std::ptr;

use tch::{Device, Tensor};

use crate::error::{Error, Result, checked};
use crate::sys;

/// The default generators of the CPU and, for a CUDA device, of that, as they were.
#[derive(Debug)]
pub struct RandomState {
    states: Vec<(Place, Tensor)>,
}

/// A device as c10 numbers it: type, and index or -1.
type Place = (i32, i32);

impl RandomState {
    /// As they are now.
    pub fn save(device: Device) -> Result<Self> {
        let state = |place: Place| {
            let mut out = ptr::null_mut();
            checked("save a random state", |message| {
                // SAFETY: both out-pointers are live.
                unsafe { sys::hearth_generator_state(place.0, place.1, &raw mut out, message) }
            })?;
            // SAFETY: the shim gave a tensor of its own making.
            Ok((place, unsafe { Tensor::from_ptr(out) }))
        };
        let states = places(device)?.into_iter().map(state).collect::<Result<_>>()?;
        Ok(Self { states })
    }

    /// Puts the generators back to where they were.
    pub fn restore(&self) -> Result<()> {
        for ((kind, index), state) in &self.states {
            checked("restore a random state", |message| {
                // SAFETY: the state is a tensor that the shim gave.
                unsafe { sys::hearth_generator_restore(*kind, *index, state.as_ptr(), message) }
            })?;
        }
        Ok(())
    }
}

fn places(device: Device) -> Result<Vec<Place>> {
    // The values of c10::DeviceType.
    let cpu = (0, -1);
    match device {
        Device::Cpu => Ok(vec![cpu]),
        Device::Cuda(index) => {
            let index = i32::try_from(index)
                .map_err(|_| Error::InvalidArgument(format!("there is no CUDA device {index}")))?;
            Ok(vec![cpu, (1, index)])
        }
        _ => Err(Error::InvalidArgument(format!("there is no random state of {device:?}"))),
    }
}
