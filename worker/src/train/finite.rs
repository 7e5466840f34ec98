//! Where numbers stopped being numbers.

use std::collections::HashMap;

use super::gang::Gang;
use crate::error::Error;
use crate::model::Parameter;

/// Where a step's numbers went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the forward pass.
    Forward,
    /// Elsewhere, as a part of a sentence.
    Told(String),
}

impl Place {
    /// As a part of a sentence; `stage` is where the forward pass overflowed, if that was found.
    pub(super) fn sentence(self, stage: Option<&str>) -> String {
        match (self, stage) {
            (Self::Told(place), _) => place,
            (Self::Forward, Some(stage)) => {
                format!(
                    "the forward pass overflowed: {stage} is the first whose output is not finite"
                )
            }
            (Self::Forward, None) => {
                "every gradient is NaN and the forward pass is finite".to_owned()
            }
        }
    }
}

/// Where a step's numbers went wrong. All ranks call it together, with `all` parameters of the
/// model, and with those, or parts of them, that are this rank's `own`.
///
/// Weights that are not finite come first. Else backward began at the end of the chain, so of
/// the gradients that are not finite the last in the order of the forward pass is where it began.
pub(super) fn locate(
    all: &[Parameter],
    own: &[Parameter],
    gang: &mut Gang,
) -> Result<Place, Error> {
    let bad = |tensor: &tch::Tensor| -> Result<f64, tch::TchError> {
        let finite = !tensor.defined() || i64::try_from(tensor.f_isfinite()?.f_all()?)? != 0;
        Ok(f64::from(u8::from(!finite)))
    };
    let places: HashMap<&str, usize> =
        all.iter().enumerate().map(|(index, one)| (one.name.as_str(), index)).collect();
    let mut found = vec![0.0; 2 * all.len()];
    for one in own {
        if let Some(place) = places.get(one.name.as_str()) {
            found[*place] = bad(&one.tensor.detach())?;
            found[all.len() + place] = bad(&one.tensor.grad())?;
        }
    }
    Ok(describe(all, &gang.sum(&found)?))
}

fn describe(parameters: &[Parameter], found: &[f64]) -> Place {
    let (weights, gradients) = found.split_at(parameters.len());
    let name = |index: usize| parameters[index].name.as_str();
    let count = gradients.iter().filter(|bad| **bad > 0.0).count();
    if let Some(weight) = weights.iter().position(|bad| *bad > 0.0) {
        return Place::Told(format!("the weight {} is not finite any more", name(weight)));
    }
    Place::Told(match gradients.iter().rposition(|bad| *bad > 0.0) {
        Some(last) if last + 1 == parameters.len() && count == parameters.len() => {
            return Place::Forward;
        }
        Some(last) => format!(
            "{count} of {} gradients are not finite, beginning at {}",
            parameters.len(),
            name(last)
        ),
        None => "each gradient is finite, their norm is not".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn the_place_is_the_bad_weight_or_where_backward_met_it_first() {
        let parameters: Vec<Parameter> = ["embed", "layer.0", "layer.1", "head"]
            .into_iter()
            .map(|name| Parameter {
                name: name.into(),
                tensor: Tensor::zeros([1], (Kind::Float, Device::Cpu)),
                role: Role::Decayed,
                stage: 0,
            })
            .collect();
        let forward = Place::Forward;
        assert_eq!(describe(&parameters, &[0., 0., 0., 0., 1., 1., 1., 1.]), forward);
        assert!(forward.sentence(Some("layer.1")).contains("layer.1 is the first"));
        for (found, want) in [
            ([0., 0., 1., 0., 1., 1., 1., 1.], "the weight layer.1 is not finite any more"),
            (
                [0., 0., 0., 0., 2., 2., 0., 0.],
                "2 of 4 gradients are not finite, beginning at layer.0",
            ),
            ([0.; 8], "each gradient is finite, their norm is not"),
        ] {
            assert_eq!(describe(&parameters, &found).sentence(None), want);
        }
    }
}
