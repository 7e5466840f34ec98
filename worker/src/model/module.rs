//! What networks are made of, and how to reach it.
//!
//! A leaf knows its own full name, which is Hugging Face's. A struct of leaves lists its fields
//! once, in the order of the forward pass ([`module!`]); parameters, linear layers to compress,
//! to adapt or to split over ranks are found by walking these lists.

use tch::Tensor;

use super::parts::linear::Linear;

/// A tensor of the model under Hugging Face's name.
#[derive(Debug)]
pub struct Weight {
    /// Such as `bert.embeddings.LayerNorm.bias`.
    pub name: String,
    /// Its values.
    pub tensor: Tensor,
    /// What it is to an optimizer.
    pub role: Role,
}

/// What a tensor is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained, with weight decay.
    Decayed,
    /// Trained, without weight decay: biases and norms, as transformers' Trainer decides.
    Plain,
    /// Not trained, but part of the model (a router's bias).
    Buffer,
    /// Not trained by gradients, but changed by passes of training (running means).
    Statistic,
}

/// An end of the walk.
pub enum Leaf<'a> {
    /// A linear layer.
    Linear(&'a Linear),
    /// Any other tensor.
    Weight(&'a Weight),
}

/// Something that holds leaves.
pub trait Module {
    /// Calls `visit` with each leaf, in the order of the forward pass.
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>));

    /// Calls `visit` with each linear layer, to put another in its place.
    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear));
}

impl Module for Weight {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        visit(Leaf::Weight(self));
    }

    fn linears_mut<'a>(&'a mut self, _: &mut dyn FnMut(&'a mut Linear)) {}
}

impl Module for Linear {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        visit(Leaf::Linear(self));
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        visit(self);
    }
}

impl<M: Module> Module for Option<M> {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        if let Some(module) = self {
            module.leaves(visit);
        }
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        if let Some(module) = self {
            module.linears_mut(visit);
        }
    }
}

impl<M: Module> Module for Vec<M> {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        for module in self {
            module.leaves(visit);
        }
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        for module in self {
            module.linears_mut(visit);
        }
    }
}

/// `module!(Type: field, field, …)` implements [`Module`] by the fields in this order.
macro_rules! module {
    ($type:ty: $($field:ident),+) => {
        impl $crate::model::module::Module for $type {
            fn leaves<'a>(&'a self, visit: &mut dyn FnMut($crate::model::module::Leaf<'a>)) {
                $(self.$field.leaves(visit);)+
            }

            fn linears_mut<'a>(
                &'a mut self,
                visit: &mut dyn FnMut(&'a mut $crate::model::parts::linear::Linear),
            ) {
                $(self.$field.linears_mut(visit);)+
            }
        }
    };
}
pub(crate) use module;
