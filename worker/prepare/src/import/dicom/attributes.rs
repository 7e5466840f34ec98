//! What is told of a file besides its pixels.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use serde::Serialize;

use super::elements::Header;

/// Age from which all are told as one (45 CFR 164.514(b)(2)(i)(C): ages over 89).
const OLDEST: u32 = 90;

/// What is told of a file besides its pixels: a list of what may be told, not of what may not, so
/// that an attribute that nobody thought of stays where it is.
///
/// None of `modality` to `pixel_spacing` is in table E.1-1 of PS3.15, which lists what the Basic
/// Application Level Confidentiality Profile removes. Sex (0010,0040) and age (0010,1010) are; the
/// profile empties the one and removes the other, unless with the "Retain Patient Characteristics
/// Option", which is asked for with
/// [`DicomOptions::patient_characteristics`](super::DicomOptions). Values that are no code of at
/// most 16 capitals, digits, spaces and underscores (PS3.5, 6.2: CS) are left out: somebody may
/// have typed a name there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// What the file was made with, such as `CT` or `DX`.
    pub modality: Option<String>,
    /// The part of the body that was examined, such as `CHEST`.
    pub body_part: Option<String>,
    /// The direction of the view, such as `AP`.
    pub view: Option<String>,
    /// The side of the body: `L`, `R`, `U` (unpaired) or `B` (both).
    pub laterality: Option<String>,
    /// Millimetres between the middles of rows, then of columns; those at the detector where there
    /// are no others.
    pub pixel_spacing: Option<[f64; 2]>,
    /// `M`, `F` or `O`.
    pub sex: Option<String>,
    /// First year of the decade of age: 30 for 30 to 39, 90 for all from 90.
    pub age_decade: Option<u32>,
    /// Whether the pixels themselves say who is shown, as the header has it; `None` where it does
    /// not say. A picture is safe to share where this is `Some(false)` and somebody looked.
    pub burned_in: Option<bool>,
    /// Whether who is shown could be recognised from a face, as the header has it.
    pub recognizable: Option<bool>,
}

impl Attributes {
    pub(super) fn of(header: &Header, patient_characteristics: bool) -> Self {
        let sex = code(header, tags::PATIENT_SEX);
        let sex = sex.filter(|sex| matches!(sex.as_str(), "M" | "F" | "O"));
        let age = header.text(tags::PATIENT_AGE).and_then(decade);
        let laterality = code(header, tags::IMAGE_LATERALITY).or(code(header, tags::LATERALITY));
        Self {
            modality: code(header, tags::MODALITY),
            body_part: code(header, tags::BODY_PART_EXAMINED),
            view: code(header, tags::VIEW_POSITION),
            laterality: laterality.filter(|side| matches!(side.as_str(), "L" | "R" | "U" | "B")),
            pixel_spacing: spacing(header, tags::PIXEL_SPACING)
                .or_else(|| spacing(header, tags::IMAGER_PIXEL_SPACING)),
            sex: sex.filter(|_| patient_characteristics),
            age_decade: age.filter(|_| patient_characteristics),
            burned_in: answer(header, tags::BURNED_IN_ANNOTATION),
            recognizable: answer(header, tags::RECOGNIZABLE_VISUAL_FEATURES),
        }
    }
}

/// A code, where it is written as codes are.
fn code(header: &Header, tag: Tag) -> Option<String> {
    let text = header.text(tag)?;
    let allowed = |letter: u8| matches!(letter, b'A'..=b'Z' | b'0'..=b'9' | b' ' | b'_');
    (text.len() <= 16 && text.bytes().all(allowed)).then(|| text.to_owned())
}

fn answer(header: &Header, tag: Tag) -> Option<bool> {
    match header.text(tag)? {
        "YES" => Some(true),
        "NO" => Some(false),
        _ => None,
    }
}

fn spacing(header: &Header, tag: Tag) -> Option<[f64; 2]> {
    let (rows, columns) = header.text(tag)?.split_once('\\')?;
    let millimetres = |text: &str| {
        text.trim().parse().ok().filter(|spacing: &f64| spacing.is_finite() && *spacing > 0.0)
    };
    Some([millimetres(rows)?, millimetres(columns)?])
}

/// The decade of an age such as `042Y` or `006M` (PS3.5, 6.2: AS).
fn decade(age: &str) -> Option<u32> {
    let (digits, unit) = age.split_at_checked(3)?;
    let number: u32 = digits.parse().ok()?;
    let years = match unit {
        "Y" => number,
        "M" => number / 12,
        "W" => number * 7 / 365,
        "D" => number / 365,
        _ => return None,
    };
    Some((years / 10 * 10).min(OLDEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_by_decade() {
        for (age, want) in [
            ("042Y", Some(40)),
            ("089Y", Some(80)),
            ("090Y", Some(90)),
            ("104Y", Some(90)),
            ("130M", Some(10)),
            ("006W", Some(0)),
            ("42", None),
            ("042X", None),
            ("Müller", None),
        ] {
            assert_eq!(decade(age), want, "{age}");
        }
    }
}
