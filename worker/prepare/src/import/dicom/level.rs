//! Values → grey: the part of the values that a window shows, from black to white.

/// Which values are shown from black to white.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// The value in the middle, after rescaling: in Hounsfield units for CT.
    pub center: f64,
    /// How many values are shown, more than 0.
    pub width: f64,
    /// How grey grows.
    pub shape: Shape,
}

/// How grey grows with the value (PS3.3 C.11.2.1.2 and C.11.2.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `LINEAR`: for whole values; black up to `center - 0.5 - (width - 1) / 2`.
    #[default]
    Linear,
    /// `LINEAR_EXACT`: black up to `center - width / 2`.
    LinearExact,
    /// `SIGMOID`.
    Sigmoid,
}

impl Window {
    /// From the least to the greatest of some values.
    pub(super) fn between(least: f64, greatest: f64) -> Self {
        let center = f64::midpoint(least, greatest);
        let width = (greatest - least).max(f64::MIN_POSITIVE);
        Self { center, width, shape: Shape::LinearExact }
    }

    /// The grey of a value, from 0 to 255.
    pub(super) fn grey(&self, value: f64) -> u8 {
        let Self { center, width, shape } = *self;
        let share = match shape {
            // A width of 1 is a threshold.
            Shape::Linear if width <= 1.0 => f64::from(value > center - 0.5),
            Shape::Linear => (value - (center - 0.5)) / (width - 1.0) + 0.5,
            Shape::LinearExact => (value - center) / width + 0.5,
            Shape::Sigmoid => 1.0 / (1.0 + libm::exp(-4.0 * (value - center) / width)),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is outside of the window is black or white"
        )]
        let grey = (share * 255.0).round() as u8;
        grey
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_standard() {
        let window = |center, width, shape| Window { center, width, shape };
        for (name, window, value, want) in [
            // The standard's own examples for 8 bits: c = 2048, w = 4096 maps 0..=4095.
            ("black", window(2048.0, 4096.0, Shape::Linear), 0.0, 0),
            ("white", window(2048.0, 4096.0, Shape::Linear), 4095.0, 255),
            ("below", window(2048.0, 4096.0, Shape::Linear), -5.0, 0),
            ("above", window(2048.0, 4096.0, Shape::Linear), 70_000.0, 255),
            ("threshold", window(2048.0, 1.0, Shape::Linear), 2047.0, 0),
            ("threshold passed", window(2048.0, 1.0, Shape::Linear), 2048.0, 255),
            ("soft tissue", window(40.0, 400.0, Shape::Linear), 40.0, 128),
            ("exact", window(40.0, 400.0, Shape::LinearExact), -60.0, 64),
            ("exact black", window(40.0, 400.0, Shape::LinearExact), -160.0, 0),
            ("sigmoid", window(0.0, 4.0, Shape::Sigmoid), 0.0, 128),
            ("sigmoid far", window(0.0, 4.0, Shape::Sigmoid), 2.0, 225),
            ("one value", Window::between(7.0, 7.0), 7.0, 128),
        ] {
            assert_eq!(window.grey(value), want, "{name}");
        }
    }
}
