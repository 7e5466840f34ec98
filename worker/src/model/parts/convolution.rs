//! Convolutions over pictures. Shapes: `B` rows, `C` channels, `H` by `W` pixels.

use tch::Tensor;

use crate::model::ModelError;
use crate::model::module::{Weight, module};

/// A convolution in two dimensions.
#[derive(Debug)]
pub struct Convolution {
    /// `[out, in / groups, k, k]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
    /// How the kernel moves.
    pub window: Window,
}
module!(Convolution: weight, bias);

/// How a square kernel moves over a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Edge of the kernel.
    pub kernel: [i64; 2],
    /// Pixels from one place to the next.
    pub stride: [i64; 2],
    /// Pixels between two values of the kernel.
    pub dilation: i64,
    /// Parts into which the channels fall.
    pub groups: i64,
    /// What surrounds the picture.
    pub padding: Padding,
}

/// Zeros around a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// So many on each side.
    Each(i64),
    /// TensorFlow's `SAME`, as transformers' `apply_tf_padding` has it: as many as the kernel
    /// needs, the odd one on the right and at the bottom, times the dilation.
    Same,
}

impl Window {
    /// A kernel of `size` that keeps the size of a picture.
    pub fn square(size: i64) -> Self {
        Self {
            kernel: [size; 2],
            stride: [1; 2],
            dilation: 1,
            groups: 1,
            padding: Padding::Each(size / 2),
        }
    }

    /// Zeros before and after, in one dimension of a picture.
    fn zeros(&self, length: i64, dimension: usize) -> [i64; 2] {
        match self.padding {
            Padding::Each(zeros) => [zeros; 2],
            Padding::Same => {
                let (kernel, stride) = (self.kernel[dimension], self.stride[dimension]);
                let covered = if length % stride == 0 { stride } else { length % stride };
                let zeros = (kernel - covered).max(0);
                [zeros / 2 * self.dilation, (zeros - zeros / 2) * self.dilation]
            }
        }
    }
}

impl Convolution {
    /// `[B, C, H, W]` → `[B, C', H', W']`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let size = input.size();
        let [top, bottom] = self.window.zeros(size[2], 0);
        let [left, right] = self.window.zeros(size[3], 1);
        let bias = self.bias.as_ref().map(|bias| &bias.tensor);
        let Window { stride, dilation, groups, .. } = self.window;
        let convolve = |input: &Tensor, padding: [i64; 2]| {
            let weight = &self.weight.tensor;
            input.f_conv2d(weight, bias, stride, padding, [dilation; 2], groups)
        };
        Ok(if top == bottom && left == right {
            convolve(input, [top, left])?
        } else {
            convolve(&input.f_constant_pad_nd([left, right, top, bottom])?, [0, 0])?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_puts_the_odd_zero_last() {
        let window =
            Window { stride: [2; 2], padding: Padding::Same, dilation: 1, ..Window::square(3) };
        assert_eq!(window.zeros(8, 0), [0, 1]);
        assert_eq!(window.zeros(7, 0), [1, 1]);
        assert_eq!(Window { stride: [1; 2], dilation: 2, ..window }.zeros(8, 0), [2, 2]);
        assert_eq!(Window { kernel: [1; 2], ..window }.zeros(8, 0), [0, 0]);
        assert_eq!(Window::square(7).zeros(8, 0), [3, 3]);
    }
}
