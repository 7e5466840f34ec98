//! `preprocessor_config.json`: what transformers' image processors do with a picture before the
//! model sees it (their Pillow back end, which trained models were made with).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::resample::{Filter, resize};
use super::{PixelFormat, Pixels};
use crate::data::DataError;
use crate::data::facts::{self, Facts};

/// The file's name.
pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// Longest edge that is asked for.
const LONGEST_EDGE: usize = 4096;
/// ConvNeXT's processor crops where the shortest edge is below this.
const CONVNEXT_WARPS: usize = 384;

/// Prepares pictures as one model wants them.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    resize: Option<(Size, Filter)>,
    /// Height and width.
    crop: Option<[usize; 2]>,
    /// How prepared pixels become the model's input.
    pub format: PixelFormat,
}

/// What a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Height and width, whatever the picture's are.
    Exact([usize; 2]),
    /// The shorter edge; the longer follows.
    Shortest(usize),
}

/// The processors that are known, by what the file calls them, and how they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vit,
    ConvNext,
    MobileNet,
}

/// The file. What is `null` is left to the processor's default.
#[derive(Deserialize)]
struct File {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u64>,
    crop_pct: Option<f64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<PerChannel>,
    image_std: Option<PerChannel>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum PerChannel {
    All(f32),
    Each([f32; 3]),
}

impl PerChannel {
    fn values(self) -> [f32; 3] {
        match self {
            Self::All(value) => [value; 3],
            Self::Each(values) => values,
        }
    }
}

impl Kind {
    fn of(file: &File) -> Result<Self, String> {
        let name = file.image_processor_type.as_ref().or(file.feature_extractor_type.as_ref());
        let name = name.map_or("", String::as_str);
        let name = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
        let name = name.strip_suffix("ImageProcessor").or(name.strip_suffix("FeatureExtractor"));
        match name {
            Some("ViT") => Ok(Self::Vit),
            Some("ConvNext") => Ok(Self::ConvNext),
            Some("MobileNetV1" | "MobileNetV2") => Ok(Self::MobileNet),
            _ => {
                let asked = file.image_processor_type.as_deref().unwrap_or("none");
                Err(format!(
                    "image_processor_type {asked:?} is not supported; ViTImageProcessor, ConvNextImageProcessor and MobileNetV2ImageProcessor are"
                ))
            }
        }
    }

    /// Defaults of transformers: size, filter (Pillow's number), crop.
    fn defaults(self) -> (Size, u64, Option<[usize; 2]>) {
        match self {
            Self::Vit => (Size::Exact([224; 2]), 2, None),
            Self::ConvNext => (Size::Shortest(384), 3, None),
            Self::MobileNet => (Size::Shortest(256), 2, Some([224; 2])),
        }
    }
}

impl Preprocessor {
    /// Reads the file in a model's directory.
    pub fn load(model: &Path) -> Result<Self, DataError> {
        let path = model.join(PREPROCESSOR_CONFIG);
        let bytes = crate::data::source::read_file(&path)?;
        Self::parse(&bytes).map_err(|detail| DataError::Setting { path, detail })
    }

    /// A picture as the model sees it, and what it was like when it came.
    pub fn measured(&self, pixels: Pixels) -> (Vec<u8>, Facts) {
        let facts = facts::of_picture(&pixels);
        (self.prepare(pixels).bytes, facts)
    }

    /// Of the file's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let kind = Kind::of(&file)?;
        let (size, resample, crop) = kind.defaults();
        let filter = file.resample.unwrap_or(resample);
        let filter = Filter::by_number(filter)
            .ok_or_else(|| format!("resample {filter} is none of Pillow's filters (0 to 5)"))?;
        let mut size = match &file.size {
            Some(value) => size_of(value, kind == Kind::Vit)?,
            None => size,
        };
        let asked_crop = file.crop_size.as_ref().map(crop_of).transpose()?;
        let crops = file.do_center_crop.unwrap_or(kind == Kind::MobileNet);
        let mut crop = crops.then_some(asked_crop.or(crop)).flatten();
        if crops && crop.is_none() {
            return Err("do_center_crop needs crop_size".into());
        }
        let resizes = file.do_resize.unwrap_or(true);
        if kind == Kind::ConvNext && resizes {
            let Size::Shortest(edge) = size else {
                return Err("size: ConvNextImageProcessor needs shortest_edge".into());
            };
            if crop.is_some() {
                return Err("do_center_crop: ConvNextImageProcessor crops by crop_pct".into());
            }
            if edge < CONVNEXT_WARPS {
                size = Size::Shortest(larger(edge, file.crop_pct.unwrap_or(0.875))?);
                crop = Some([edge; 2]);
            } else {
                size = Size::Exact([edge; 2]);
            }
        }
        let [height, width] = match (crop, size) {
            (Some(crop), _) => crop,
            (None, Size::Exact(size)) if resizes => size,
            _ => {
                return Err(
                    "pictures would keep sizes of their own, and those of a batch must be of one; set size to a height and a width, or do_center_crop"
                        .into(),
                );
            }
        };
        let normalizes = file.do_normalize.unwrap_or(true);
        let channels = |asked: Option<PerChannel>, default: f32, idle: f32| match asked {
            _ if !normalizes => [idle; 3],
            Some(values) => values.values(),
            None => [default; 3],
        };
        let std = channels(file.image_std, 0.5, 1.0);
        if std.iter().any(|value| !(*value > 0.0 && value.is_finite())) {
            return Err(format!("image_std {std:?} is not above 0"));
        }
        let rescales = file.do_rescale.unwrap_or(true);
        Ok(Self {
            resize: resizes.then_some((size, filter)),
            crop,
            format: PixelFormat {
                height,
                width,
                scale: if rescales { file.rescale_factor.unwrap_or(1.0 / 255.0) } else { 1.0 },
                mean: channels(file.image_mean, 0.5, 0.0),
                std,
            },
        })
    }

    /// A picture of the model's size.
    pub fn prepare(&self, picture: Pixels) -> Pixels {
        let resized = match self.resize {
            Some((Size::Exact(size), filter)) => resize(picture, size, filter),
            Some((Size::Shortest(edge), filter)) => {
                let size = by_shortest([picture.height, picture.width], edge);
                resize(picture, size, filter)
            }
            None => picture,
        };
        match self.crop {
            Some(size) => center_crop(&resized, size),
            None => resized,
        }
    }

    /// All that decides on prepared pixels, as text.
    pub(super) fn recipe(&self) -> String {
        format!("{:?} {:?}", self.resize, self.crop)
    }
}

/// ConvNeXT resizes to `edge / crop_pct` and then crops to `edge`.
fn larger(edge: usize, crop_pct: f64) -> Result<usize, String> {
    if !(0.1..=1.0).contains(&crop_pct) {
        return Err(format!("crop_pct {crop_pct} is not within 0.1 to 1"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 3840")]
    let larger = (edge as f64 / crop_pct) as usize;
    Ok(larger)
}

/// Height and width with this shorter edge (`get_resize_output_image_size`).
fn by_shortest([height, width]: [usize; 2], edge: usize) -> [usize; 2] {
    let long = |short: usize, long: usize| (edge * long / short).max(1);
    if width <= height { [long(width, height), edge] } else { [edge, long(height, width)] }
}

/// The middle of a picture; where it is smaller, with black around it.
fn center_crop(pixels: &Pixels, [height, width]: [usize; 2]) -> Pixels {
    let mut bytes = vec![0; height * width * 3];
    let (from_row, to_row, rows) = overlap(pixels.height, height);
    let (from_column, to_column, columns) = overlap(pixels.width, width);
    for row in 0..rows {
        let from = ((from_row + row) * pixels.width + from_column) * 3;
        let to = ((to_row + row) * width + to_column) * 3;
        bytes[to..to + columns * 3].copy_from_slice(&pixels.bytes[from..from + columns * 3]);
    }
    Pixels { width, height, bytes }
}

/// First index in the source and in the result, and length, of what is taken out of `length`.
fn overlap(length: usize, wanted: usize) -> (usize, usize, usize) {
    if length >= wanted {
        ((length - wanted) / 2, 0, wanted)
    } else {
        (0, (wanted - length).div_ceil(2), length)
    }
}

/// `size`: a number, `[height, width]`, or an object.
fn size_of(value: &Value, square: bool) -> Result<Size, String> {
    let edge = |name: &str| value.get(name).filter(|edge| !edge.is_null());
    if let Some(edge) = value.as_u64() {
        let edge = checked("size", edge)?;
        return Ok(if square { Size::Exact([edge; 2]) } else { Size::Shortest(edge) });
    }
    if let (Some(shortest), None) = (edge("shortest_edge"), edge("longest_edge")) {
        return Ok(Size::Shortest(checked("size.shortest_edge", number(shortest))?));
    }
    crop_of(value).map(Size::Exact).map_err(|_| {
        format!("size {value} is not supported; height and width, or shortest_edge, are")
    })
}

/// `crop_size`: a number, `[height, width]`, or an object of both.
fn crop_of(value: &Value) -> Result<[usize; 2], String> {
    let pair = match value {
        Value::Number(_) => [value, value],
        Value::Array(edges) => match edges.as_slice() {
            [height, width] => [height, width],
            _ => return Err(format!("crop_size {value} is not height and width")),
        },
        _ => match (value.get("height"), value.get("width")) {
            (Some(height), Some(width)) => [height, width],
            _ => return Err(format!("crop_size {value} has no height and width")),
        },
    };
    Ok([checked("height", number(pair[0]))?, checked("width", number(pair[1]))?])
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn checked(name: &str, edge: u64) -> Result<usize, String> {
    let within = usize::try_from(edge).ok().filter(|edge| (1..=LONGEST_EDGE).contains(edge));
    within.ok_or_else(|| format!("{name} is not within 1 to {LONGEST_EDGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &Value) -> Result<Preprocessor, String> {
        Preprocessor::parse(file.to_string().as_bytes())
    }

    #[test]
    fn files_of_all_ages_are_read() {
        let old = serde_json::json!({
            "feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875,
            "do_normalize": true, "do_resize": true, "resample": 3, "size": 224,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]
        });
        let read = parse(&old).unwrap();
        assert_eq!(read.resize, Some((Size::Shortest(256), Filter::Bicubic)));
        assert_eq!(read.crop, Some([224, 224]));
        let large = serde_json::json!({"image_processor_type": "ConvNextImageProcessor"});
        let large = parse(&large).unwrap();
        assert_eq!((large.format.height, large.crop), (384, None));
        let mobile = serde_json::json!({
            "image_processor_type": "MobileNetV2ImageProcessorFast", "crop_size": null,
            "size": {"shortest_edge": 40}, "do_rescale": false, "do_normalize": false
        });
        let mobile = parse(&mobile).unwrap();
        assert_eq!(mobile.resize, Some((Size::Shortest(40), Filter::Bilinear)));
        let format = mobile.format;
        assert_eq!(
            (format.width, format.scale, format.mean, format.std),
            (224, 1.0, [0.0; 3], [1.0; 3])
        );
        let vit = serde_json::json!({"image_processor_type": "ViTImageProcessor", "size": 32});
        assert_eq!(parse(&vit).unwrap().resize, Some((Size::Exact([32, 32]), Filter::Bilinear)));
    }

    #[test]
    fn what_gives_no_batch_is_refused_by_name() {
        let vit = |field: &str, value: Value| {
            let mut file = serde_json::json!({"image_processor_type": "ViTImageProcessor"});
            file[field] = value;
            parse(&file).unwrap_err()
        };
        for (field, value, named) in [
            ("image_processor_type", "CLIPImageProcessor".into(), "CLIPImageProcessor"),
            ("size", serde_json::json!({"shortest_edge": 32}), "do_center_crop"),
            ("size", serde_json::json!({"max_height": 3}), "shortest_edge"),
            ("size", 0.into(), "size"),
            ("do_resize", false.into(), "sizes of their own"),
            ("do_center_crop", true.into(), "crop_size"),
            ("resample", 9.into(), "resample 9"),
            ("image_std", 0.into(), "image_std"),
        ] {
            let message = vit(field, value);
            assert!(message.contains(named), "{field}: {message}");
        }
    }

    #[test]
    fn the_middle_is_taken_and_what_is_missing_is_black() {
        let bytes: Vec<u8> = (1..=4).flat_map(|value| [value; 3]).collect();
        let row = Pixels { width: 4, height: 1, bytes };
        let first = |pixels: &Pixels| pixels.bytes.iter().step_by(3).copied().collect::<Vec<_>>();
        assert_eq!(first(&center_crop(&row, [1, 3])), [1, 2, 3]);
        assert_eq!(first(&center_crop(&row, [2, 5])), [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(by_shortest([30, 20], 10), [15, 10]);
        assert_eq!(by_shortest([20, 33], 10), [10, 16]);
    }
}
