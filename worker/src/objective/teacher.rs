//! A second, fixed model whose predictions are learned besides the data (Hinton et al. 2015).

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Tensor};
use tokenizers::Tokenizer;

use super::classification::Input;
use super::decode;
use crate::data::CausalBatch;
use crate::model::{self, Dropout, Head, Model, ModelError, Output, TeacherOutput};

/// A model to learn from.
#[derive(Clone, Debug)]
pub struct Teacher {
    model: Rc<Model>,
    /// Its number of each of the student's classes, where its order is another.
    classes: Option<Rc<Tensor>>,
    /// Divides the logits of both models.
    pub temperature: f64,
    /// Its share of the loss.
    pub alpha: f64,
}

impl Teacher {
    /// Reads the teacher of `student`, whose directory is `own`. Refuses one that does not speak of
    /// the same tokens and the same classes.
    pub fn read(
        directory: &Path,
        (student, own): (&Model, &Path),
        device: Device,
        (temperature, alpha): (f64, f64),
    ) -> Result<Self, ModelError> {
        let model = model::load(directory, device)?;
        let refuse = |detail: String| ModelError::Unsupported {
            path: model.config.path.clone(),
            detail: format!("as distillation.teacher: {detail}"),
        };
        same_vocabulary(&model, directory, student, own).map_err(refuse)?;
        let classes = class_order(&model.head, &student.head).map_err(refuse)?;
        let classes = classes.map(|order| Tensor::f_from_slice(&order)?.f_to_device(device));
        for parameter in model.parameters() {
            let _ = parameter.tensor.f_set_requires_grad(false)?;
        }
        let classes = classes.transpose()?.map(Rc::new);
        Ok(Self { model: Rc::new(model), classes, temperature, alpha })
    }

    /// Logits `[B, C]`, in the order of the student's classes.
    pub(super) fn classes(&self, input: &Input) -> Result<Tensor, ModelError> {
        tch::no_grad(|| {
            let logits = input.logits(&self.model, Dropout::Off)?;
            Ok(match &self.classes {
                Some(order) => logits.f_index_select(1, order)?,
                None => logits,
            })
        })
    }

    /// What it says of the tokens to predict, before its head.
    pub(super) fn tokens(&self, rows: &CausalBatch) -> Result<TeacherOutput, ModelError> {
        let weight = self
            .model
            .network()
            .head_weight()
            .ok_or(ModelError::Pass("a teacher's head is a product and nothing more"))?;
        let hidden = tch::no_grad(|| decode(&self.model, rows, Dropout::Off, Output::Hidden))?;
        Ok(TeacherOutput { hidden, weight, temperature: self.temperature, alpha: self.alpha })
    }
}

/// Both give ids to the same tokens, and logits over as many.
fn same_vocabulary(
    teacher: &Model,
    directory: &Path,
    student: &Model,
    own: &Path,
) -> Result<(), String> {
    match (teacher.config.family.sees(), student.config.family.sees()) {
        (true, true) => return Ok(()),
        (false, false) => {}
        _ => return Err("one sees pictures, the other reads texts".into()),
    }
    let advice = "use a teacher of the same tokenizer";
    let sizes = (teacher.config.vocab_size, student.config.vocab_size);
    if sizes.0 != sizes.1 {
        return Err(format!("its vocab_size is {}, the model's {}; {advice}", sizes.0, sizes.1));
    }
    let (theirs, ours) = (vocabulary(directory)?, vocabulary(own)?);
    let mut differing: Vec<&str> = ours
        .iter()
        .filter(|(token, id)| theirs.get(*token) != Some(*id))
        .map(|(token, _)| token.as_str())
        .collect();
    differing.sort_unstable();
    match differing.first() {
        Some(token) => Err(format!(
            "its tokenizer gives another id to {} of the model's tokens, {token:?} among them; {advice}",
            differing.len()
        )),
        None => Ok(()),
    }
}

fn vocabulary(directory: &Path) -> Result<HashMap<String, u32>, String> {
    let path = directory.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(tokenizer.get_vocab(true))
}

/// The teacher's number of each of the student's classes; `None` where they are the same, or where
/// there are no classes.
fn class_order(teacher: &Head, student: &Head) -> Result<Option<Vec<i64>>, String> {
    let (theirs, ours) = match (teacher, student) {
        (Head::CausalLm, Head::CausalLm) => return Ok(None),
        (Head::Classifier(theirs), Head::Classifier(ours)) => (theirs, ours),
        (Head::CausalLm, Head::Classifier(_)) => {
            return Err("it is a language model; a classifier learns from a classifier".into());
        }
        (Head::Classifier(_), Head::CausalLm) => {
            return Err("it is a classifier; a language model learns from a language model".into());
        }
    };
    if theirs == ours {
        return Ok(None);
    }
    let unknown = ours.names().iter().find(|name| theirs.id(name).is_none());
    if theirs.len() != ours.len() || unknown.is_some() {
        return Err(format!(
            "its classes are {:?}, those of the data {:?}; train a teacher for the same",
            theirs.names(),
            ours.names()
        ));
    }
    Ok(Some(ours.names().iter().filter_map(|name| theirs.id(name)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Labels;

    fn classes(names: &[&str]) -> Head {
        Head::Classifier(Labels::new(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn classes_are_found_by_name() {
        let order = |a: &[&str], b: &[&str]| class_order(&classes(a), &classes(b));
        assert_eq!(order(&["ham", "spam"], &["ham", "spam"]), Ok(None));
        assert_eq!(order(&["c", "a", "b"], &["a", "b", "c"]), Ok(Some(vec![1, 2, 0])));
        for (teacher, student) in [
            (classes(&["ham", "spam", "other"]), classes(&["ham", "spam"])),
            (classes(&["ham", "eggs"]), classes(&["ham", "spam"])),
            (Head::CausalLm, classes(&["ham", "spam"])),
            (classes(&["ham", "spam"]), Head::CausalLm),
        ] {
            assert!(class_order(&teacher, &student).is_err(), "{teacher:?}");
        }
    }
}
