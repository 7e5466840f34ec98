//! Memory that holds a rank's share of the state while it is written.

use tch::{Device, Tensor};

use super::part::{Holders, Part};
use crate::error::Error;

/// Copies of parts, in memory that one save leaves to the next.
#[derive(Debug, Default)]
pub struct Staging {
    parts: Vec<Part>,
}

impl Staging {
    /// Memory for `parts`, whose pages are there.
    pub fn allocate(plan: Vec<Part>) -> Result<Self, Error> {
        let parts = plan
            .into_iter()
            .map(|part| {
                let options = (part.tensor.kind(), Device::Cpu);
                let mut tensor = Tensor::f_empty(part.tensor.size(), options)?;
                if let Device::Cuda(_) = part.tensor.device() {
                    // A copy from the device is twice as fast into pinned memory.
                    tensor = tensor.f_pin_memory(part.tensor.device()).unwrap_or(tensor);
                }
                let _ = tensor.f_zero_()?;
                Ok(Part { tensor, ..part })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { parts })
    }

    /// Copies the values of `parts`. Memory is allocated only where they are
    /// not of the shapes that it was made for.
    pub fn copy(&mut self, parts: &[&Part]) -> Result<(), Error> {
        let fits = self.parts.len() == parts.len()
            && self.parts.iter().zip(parts).all(|(own, part)| {
                (&own.name, &own.shape, &own.region) == (&part.name, &part.shape, &part.region)
                    && own.tensor.kind() == part.tensor.kind()
            });
        if !fits {
            *self = Self::allocate(parts.iter().map(|part| outline(part)).collect())?;
        }
        tch::no_grad(|| {
            for (own, part) in self.parts.iter_mut().zip(parts) {
                own.tensor.f_copy_(&part.tensor.f_detach()?)?;
            }
            Ok(())
        })
    }

    /// The copies.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// A part as a plan for memory; shares its tensor.
pub fn outline(part: &Part) -> Part {
    Part {
        name: part.name.clone(),
        shape: part.shape.clone(),
        region: part.region.clone(),
        tensor: part.tensor.shallow_clone(),
        holders: Holders::These(Vec::new()),
    }
}
