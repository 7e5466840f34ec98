//! Every combination of values.

use super::space::{Coordinate, Domain, Point, Space};

/// Combination number `number`, the last dimension fastest; none beyond the last. Dimensions that
/// are not there for some values of others make no combinations with these.
pub fn point(space: &Space, number: usize) -> Option<Point> {
    let mut now = space.decide(|_, _| Coordinate::Choice(0));
    for _ in 0..number {
        now = after(space, &now)?;
    }
    Some(now)
}

/// The combination after one: the last dimension that can goes on by one, those behind it start
/// over.
fn after(space: &Space, point: &Point) -> Option<Point> {
    let turn = point.0.iter().zip(space.dimensions()).rposition(|(place, dimension)| {
        matches!((place, &dimension.domain), (Some(Coordinate::Choice(choice)), Domain::Choices(values))
            if choice + 1 < values.len())
    })?;
    Some(space.decide(|index, _| match point.0.get(index) {
        Some(Some(place)) if index < turn => *place,
        Some(Some(Coordinate::Choice(choice))) if index == turn => Coordinate::Choice(choice + 1),
        _ => Coordinate::Choice(0),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::space::{Condition, Dimension};
    use super::*;

    fn choices(count: i64, when: Option<Condition>) -> Dimension {
        Dimension { domain: Domain::Choices((0..count).map(Into::into).collect()), when }
    }

    fn all(space: &Space) -> Vec<Vec<Option<usize>>> {
        let choice = |place: &Option<Coordinate>| match place {
            Some(Coordinate::Choice(choice)) => Some(*choice),
            _ => None,
        };
        (0..)
            .map_while(|number| point(space, number))
            .map(|point| point.0.iter().map(choice).collect())
            .collect()
    }

    #[test]
    fn the_last_dimension_turns_fastest() {
        let space = Space::new(vec![choices(2, None), choices(3, None)]);
        let want: Vec<_> = (0..6).map(|number| vec![Some(number / 3), Some(number % 3)]).collect();
        assert_eq!(all(&space), want);
    }

    #[test]
    fn what_is_not_there_makes_no_combinations() {
        let when = Condition { dimension: 0, choices: vec![1] };
        let space = Space::new(vec![choices(2, None), choices(2, Some(when)), choices(2, None)]);
        assert_eq!(
            all(&space),
            [
                vec![Some(0), None, Some(0)],
                vec![Some(0), None, Some(1)],
                vec![Some(1), Some(0), Some(0)],
                vec![Some(1), Some(0), Some(1)],
                vec![Some(1), Some(1), Some(0)],
                vec![Some(1), Some(1), Some(1)],
            ]
        );
    }
}
