//! Pictures: which are no use, and what is made of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one_copy;

/// Pictures that stay. Those that cannot be decoded go always.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageFilter {
    /// Fewest pixels of the shorter side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub min_side: Option<i32>,
}

/// Pictures made of a picture.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.rotate) || has(self.scale) || has(self.flip) || has(self.colorJitter) || has(self.crop)").message("augment.image makes nothing: write rotate, scale, flip, colorJitter or crop"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageAugmentation {
    /// New pictures of each.
    #[serde(default = "one_copy")]
    #[schemars(range(min = 1, max = 16))]
    pub copies: i32,
    /// Most degrees, either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 180.0))]
    pub rotate: Option<f64>,
    /// Bounds of the factor by which what is shown grows, around the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Ways in which half of the pictures are mirrored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub flip: Vec<Flip>,
    /// Brightness, contrast and so on, as torchvision's `ColorJitter` changes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// Least share of the area that a random crop keeps; it is scaled to the picture's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.05, max = 0.99))]
    pub crop: Option<f64>,
}

/// Bounds of a factor.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("scale.min is at most scale.max"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// Least.
    #[schemars(range(min = 0.1, max = 10.0))]
    pub min: f64,
    /// Greatest.
    #[schemars(range(min = 0.1, max = 10.0))]
    pub max: f64,
}

/// A way to mirror a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Flip {
    /// Left becomes right.
    Horizontal,
    /// Top becomes bottom.
    Vertical,
}

/// How far colours change; each factor is drawn from `1 - x` to `1 + x`, the hue from `-x` to `x`
/// turns.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColorJitter {
    /// Brightness.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub brightness: f64,
    /// Contrast.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub contrast: f64,
    /// Saturation.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub saturation: f64,
    /// Hue.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub hue: f64,
}
