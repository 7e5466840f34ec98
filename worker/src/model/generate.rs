//! Continues texts one token at a time.

use tch::{Kind, Tensor};

use super::{Memory, Model, ModelError, Pass};

/// The likeliest continuation, token by token: prompts i64 `[B, T]` of one length → i64
/// `[B, count]`.
pub fn greedy(model: &Model, prompts: &Tensor, count: usize) -> Result<Tensor, ModelError> {
    tch::no_grad(|| {
        let (rows, device) = (prompts.size()[0], prompts.device());
        let mut memory = Memory::default();
        let mut input = prompts.shallow_clone();
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            let length = input.size()[1];
            let mut pass = Pass::continued(model.network(), memory, length, device)?;
            // The last position of each row: the only one whose logits are wanted.
            let last = Tensor::f_arange_start(1, rows + 1, (Kind::Int64, device))?;
            pass.select = Some(last.f_mul_scalar(length)?.f_sub_scalar(1)?);
            input = model.forward(&input, &pass)?.f_argmax(1, true)?;
            tokens.push(input.shallow_clone());
            memory = pass.memory.map(std::cell::RefCell::into_inner).unwrap_or_default();
        }
        Ok(Tensor::f_cat(&tokens, 1)?)
    })
}
