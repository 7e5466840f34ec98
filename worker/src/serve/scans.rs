//! `POST /v1/classify` with files of scanners: one (`application/dicom`), or a series of them
//! (`multipart/related; type="application/dicom"`), as DICOMweb's STOW-RS sends them.
//!
//! ```text
//! {"model": "scans", "revision": "…",
//!  "findings": [{"label": "CT", "score": 0.98}, …],
//!  "report": {"conclusion": "CT, with a probability of 0.98: …", "instances": 2, "frames": 2,
//!             "modality": ["CT"], "bodyPart": ["CHEST"], …,
//!             "byFrame": [{"instance": 0, "frame": 1, "label": "CT", "score": 0.99}, …]}}
//! ```
//!
//! Findings are of all frames together: the mean of their probabilities. Pixels are made grey as those
//! that training saw, by [`hearth_prepare::import::dicom`], which reads a short list of attributes and
//! skips all others: nothing of a patient is in memory, so nothing of one is told or logged.
//!
//! Files are read one after another, and what is kept of each are prepared pixels, of at most
//! [`MOST_FRAMES`] frames: what a file claims costs nothing, and what it has is bounded.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use hearth_prepare::import::dicom::{self, Attributes, Dicom, DicomOptions};
use serde::Serialize;

use super::classify::{Class, Threshold, decided, ranked};
use super::common::Failure;
use super::engine::Answer;
use super::http::Server;
use super::reads::{Reads, Row};
use super::related;

/// The media type of one file.
pub const DICOM: &str = "application/dicom";
/// That of several.
const RELATED: &str = "multipart/related";
/// Most frames of a request: prepared, those of 224 by 224 pixels take 154 MB.
pub const MOST_FRAMES: usize = 1024;
/// Files that are read while what was read before them is computed.
const AT_ONCE: usize = 16;

/// An answer.
#[derive(Debug, Serialize)]
pub struct Response {
    /// Name of the model.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// Classes of all frames together; the answer first, then the likeliest.
    pub findings: Vec<Class>,
    /// The model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// What they are made of.
    pub report: Report,
}

/// What findings are made of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// One sentence.
    pub conclusion: String,
    /// Files.
    pub instances: usize,
    /// Frames of all files.
    pub frames: usize,
    /// What files say that they were made with.
    pub modality: BTreeSet<String>,
    /// Which parts of the body they say they show.
    pub body_part: BTreeSet<String>,
    /// Directions of the view.
    pub view: BTreeSet<String>,
    /// Sides of the body.
    pub laterality: BTreeSet<String>,
    /// Files whose pixels say who is shown, as their headers have it.
    pub burned_in: usize,
    /// Files that do not say whether theirs do.
    pub burned_in_unknown: usize,
    /// The answer for each frame.
    pub by_frame: Vec<Finding>,
}

/// The answer for a frame.
#[derive(Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Number of the file in the request, from 0.
    pub instance: usize,
    /// Number of the frame in the file, from 1, as DICOM counts.
    pub frame: usize,
    /// The class.
    pub label: String,
    /// Its probability.
    pub score: f32,
}

/// What is kept of a file.
struct Scan<U> {
    attributes: Attributes,
    rows: Vec<Row<U>>,
}

/// Whether bodies of a media type hold files of scanners.
pub fn is_of(media: &str) -> bool {
    let name = related::name(media);
    let of_dicom = || related::parameter(media, "type").is_none_or(is_dicom);
    name == DICOM || (name == RELATED && of_dicom())
}

fn is_dicom(kind: &str) -> bool {
    kind.eq_ignore_ascii_case(DICOM)
}

/// The files of a body of such a type.
pub fn files(media: &str, body: &Bytes) -> Result<Vec<Bytes>, Failure> {
    if related::name(media) == DICOM {
        return Ok(vec![body.clone()]);
    }
    let boundary = related::parameter(media, "boundary").ok_or_else(|| Failure {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        message: format!("{RELATED} needs the parameter boundary; name it in Content-Type"),
    })?;
    related::parts(body, boundary, DICOM).map_err(Failure::bad_request)
}

impl<R: Reads> Server<R> {
    /// What the files of a series show together.
    pub async fn report(
        self: &Arc<Self>,
        files: Vec<Bytes>,
        top_k: Option<usize>,
    ) -> Result<Response, Failure> {
        if files.is_empty() {
            return Err(Failure::bad_request("there is no file; send at least one"));
        }
        let instances = files.len();
        let mut told = Told::default();
        let mut read: Vec<Scan<R::Unit>> = Vec::new();
        let mut numbered = files.into_iter().enumerate();
        loop {
            let next: Vec<(usize, Bytes)> = numbered.by_ref().take(AT_ONCE).collect();
            if next.is_empty() && read.is_empty() {
                break;
            }
            let frames = told.frames + read.iter().map(|scan| scan.rows.len()).sum::<usize>();
            let computed = self.compute(std::mem::take(&mut read));
            let (computed, scans) = tokio::join!(computed, self.scans(next, frames));
            computed?.into_iter().for_each(|scan| told.add(scan));
            read = scans?;
        }
        Ok(self.tell(&told, instances, top_k))
    }

    /// Reads files, of which with `before` more frames there may be [`MOST_FRAMES`].
    async fn scans(
        self: &Arc<Self>,
        files: Vec<(usize, Bytes)>,
        before: usize,
    ) -> Result<Vec<Scan<R::Unit>>, Failure> {
        let failed = |message| Failure { status: StatusCode::INTERNAL_SERVER_ERROR, message };
        let turn = self.way.turns.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        let own = self.clone();
        let scans = tokio::task::spawn_blocking(move || {
            let mut frames = before;
            let scan = |(number, file): (usize, Bytes)| {
                let scan = scan(&own.way.reader, &file, MOST_FRAMES - frames.min(MOST_FRAMES));
                let scan = scan.map_err(|why| format!("file {number} {why}"))?;
                frames += scan.rows.len();
                Ok(scan)
            };
            files.into_iter().map(scan).collect::<Result<Vec<_>, String>>()
        });
        let scans = scans.await.map_err(|error| failed(format!("reading failed: {error}")));
        drop(turn);
        scans?.map_err(Failure::bad_request)
    }

    /// What the model gives of files, not more at once than may wait.
    async fn compute(
        &self,
        scans: Vec<Scan<R::Unit>>,
    ) -> Result<Vec<(Attributes, Vec<Answer>)>, Failure> {
        let mut computed = Vec::with_capacity(scans.len());
        for Scan { attributes, rows } in scans {
            let mut answers = Vec::with_capacity(rows.len());
            let mut rows = rows.into_iter();
            loop {
                let some: Vec<Row<R::Unit>> = rows.by_ref().take(self.way.engine.depth()).collect();
                if some.is_empty() {
                    break;
                }
                answers.extend(self.way.answers(some).await?);
            }
            computed.push((attributes, answers));
        }
        Ok(computed)
    }

    fn tell(&self, told: &Told, instances: usize, top_k: Option<usize>) -> Response {
        let threshold = self.threshold.as_ref();
        let mean = told.mean();
        let findings = ranked(&self.labels, &mean, threshold, None);
        let mut by_frame = Vec::with_capacity(told.frames);
        for (instance, (_, answers)) in told.files.iter().enumerate() {
            for (frame, scores) in (1..).zip(answers) {
                let class = decided(scores, threshold);
                let label = self.labels.get(class).cloned().unwrap_or_default();
                let score = scores.get(class).copied().unwrap_or_default();
                by_frame.push(Finding { instance, frame, label, score });
            }
        }
        let others = findings.first().map_or(0, |answer| {
            by_frame.iter().filter(|finding| finding.label != answer.label).count()
        });
        let conclusion = findings.first().map_or_else(String::new, |Class { label, score }| {
            format!(
                "{label}, with a probability of {score:.2}: the mean of {} frame(s) in {instances} file(s), of which {others} by themselves are answered otherwise.",
                told.frames
            )
        });
        let codes = |of: fn(&Attributes) -> Option<&String>| {
            told.files.iter().filter_map(|(attributes, _)| of(attributes).cloned()).collect()
        };
        let burned_in =
            |is: Option<bool>| told.files.iter().filter(|(of, _)| of.burned_in == is).count();
        let report = Report {
            conclusion,
            instances,
            frames: told.frames,
            modality: codes(|of| of.modality.as_ref()),
            body_part: codes(|of| of.body_part.as_ref()),
            view: codes(|of| of.view.as_ref()),
            laterality: codes(|of| of.laterality.as_ref()),
            burned_in: burned_in(Some(true)),
            burned_in_unknown: burned_in(None),
            by_frame,
        };
        Response {
            model: self.common.name.clone(),
            revision: self.common.revision.clone(),
            findings: findings.into_iter().take(top_k.unwrap_or(usize::MAX)).collect(),
            threshold: self.threshold.clone(),
            report,
        }
    }
}

/// What files say, and what the model says of them.
#[derive(Default)]
struct Told {
    files: Vec<(Attributes, Vec<Answer>)>,
    frames: usize,
}

impl Told {
    fn add(&mut self, file: (Attributes, Vec<Answer>)) {
        self.frames += file.1.len();
        self.files.push(file);
    }

    /// Of all frames, by class.
    fn mean(&self) -> Vec<f32> {
        let mut sums = Vec::new();
        for scores in self.files.iter().flat_map(|(_, answers)| answers) {
            sums.resize(scores.len(), 0.0);
            sums.iter_mut().zip(scores.iter()).for_each(|(sum, score)| *sum += f64::from(*score));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a mean of 32-bit numbers")]
        let mean = |sum: f64| (sum / self.frames as f64) as f32;
        sums.into_iter().map(mean).collect()
    }
}

/// Reads a file of at most `most` frames.
fn scan<R: Reads>(reader: &R, file: &[u8], most: usize) -> Result<Scan<R::Unit>, String> {
    let read = dicom::read(Cursor::new(file), DicomOptions::default());
    let Dicom { frames, attributes } = read.map_err(|error| error.to_string())?;
    if frames.len() > most {
        return Err(format!(
            "brings more than {MOST_FRAMES} frames together with those before it; send fewer at once"
        ));
    }
    let rows = frames.into_iter().map(|frame| reader.frame(frame)).collect::<Result<_, _>>()?;
    Ok(Scan { attributes, rows })
}
