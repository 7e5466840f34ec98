use super::*;
use crate::table::statistics::Wanted;

fn numbers(values: &[f64]) -> ColumnValues {
    ColumnValues::Number(values.iter().map(|value| number(Some(*value))).collect())
}

fn texts(values: &[&str]) -> ColumnValues {
    let value = |value: &&str| (!value.is_empty()).then(|| (*value).to_owned());
    ColumnValues::Category(values.iter().map(value).collect())
}

fn applied(spec: &Column, values: &ColumnValues) -> Result<(ColumnValues, Vec<bool>), RuleError> {
    let mut statistics = Statistics::like(values, Wanted::default());
    statistics.extend(values);
    let rule = ColumnRule::new("c", spec, &statistics)?;
    let (mut values, mut keep) = (values.clone(), vec![true; values.len()]);
    rule.apply(&mut values, &mut keep);
    Ok((values, keep))
}

fn missing(missing: Missing, fill: Option<&str>) -> Column {
    Column { missing, fill: fill.map(str::to_owned), ..Column::default() }
}

#[test]
fn missing_values_become_what_the_spec_says() {
    let (nan, all) = (f64::NAN, [true, true, true, true]);
    for (spec, values, want, keep) in [
        (
            missing(Missing::Keep, None),
            numbers(&[1.0, nan, 2.0, 6.0]),
            numbers(&[1.0, nan, 2.0, 6.0]),
            all,
        ),
        (
            missing(Missing::Mean, None),
            numbers(&[1.0, nan, 2.0, 6.0]),
            numbers(&[1.0, 3.0, 2.0, 6.0]),
            all,
        ),
        (
            missing(Missing::Median, None),
            numbers(&[1.0, nan, 2.0, 6.0]),
            numbers(&[1.0, 2.0, 2.0, 6.0]),
            all,
        ),
        (
            missing(Missing::Mode, None),
            numbers(&[1.0, nan, 2.0, 2.0]),
            numbers(&[1.0, 2.0, 2.0, 2.0]),
            all,
        ),
        (
            missing(Missing::Fill, Some("-1")),
            numbers(&[1.0, nan, 2.0, 6.0]),
            numbers(&[1.0, -1.0, 2.0, 6.0]),
            all,
        ),
        (
            missing(Missing::Drop, None),
            numbers(&[1.0, nan, 2.0, 6.0]),
            numbers(&[1.0, nan, 2.0, 6.0]),
            [true, false, true, true],
        ),
        (
            missing(Missing::Mode, None),
            texts(&["b", "", "b", "a"]),
            texts(&["b", "b", "b", "a"]),
            all,
        ),
        (
            missing(Missing::Fill, Some("x")),
            texts(&["b", "", "b", "a"]),
            texts(&["b", "x", "b", "a"]),
            all,
        ),
        (
            missing(Missing::Drop, None),
            texts(&["b", "", "b", "a"]),
            texts(&["b", "", "b", "a"]),
            [true, false, true, true],
        ),
    ] {
        assert_eq!(applied(&spec, &values), Ok((want, keep.to_vec())), "{spec:?}");
    }
}

#[test]
fn outliers_are_clipped_or_go() {
    // Quartiles 2 and 4: fences at -1 and 7. Mean 21.4, deviation 39.3.
    let values = numbers(&[1.0, 2.0, 3.0, 4.0, 100.0]);
    let outliers = |method, distance, action| Column {
        outliers: Some(Outliers { method, distance, action }),
        ..Column::default()
    };
    let (iqr, score) = (OutlierMethod::IQR, OutlierMethod::ZScore);
    let clipped = outliers(iqr, None, OutlierAction::Clip);
    assert_eq!(applied(&clipped, &values).unwrap().0, numbers(&[1.0, 2.0, 3.0, 4.0, 7.0]));
    let drop = [true, true, true, true, false];
    assert_eq!(applied(&outliers(iqr, None, OutlierAction::Drop), &values).unwrap().1, drop);
    assert_eq!(applied(&outliers(score, Some(1.9), OutlierAction::Drop), &values).unwrap().1, drop);
    let far = outliers(score, None, OutlierAction::Drop);
    assert_eq!(applied(&far, &values).unwrap().1, [true; 5]);
}

#[test]
fn what_does_not_go_with_the_column_is_refused() {
    let outliers = Column {
        outliers: Some(Outliers {
            method: OutlierMethod::IQR,
            distance: None,
            action: OutlierAction::Clip,
        }),
        ..Column::default()
    };
    for (spec, values, want) in [
        (
            missing(Missing::Mean, None),
            texts(&["a"]),
            "data.preparation.table.columns.c.missing: no mean of texts; write Fill, Drop or Keep",
        ),
        (
            missing(Missing::Median, None),
            numbers(&[]),
            "data.preparation.table.columns.c.missing: no median of no values; write Fill, Drop or Keep",
        ),
        (
            missing(Missing::Fill, None),
            numbers(&[1.0]),
            "data.preparation.table.columns.c.fill: missing: Fill needs it",
        ),
        (
            missing(Missing::Fill, Some("x")),
            numbers(&[1.0]),
            "data.preparation.table.columns.c.fill: the column has numbers; write one",
        ),
        (
            outliers,
            texts(&["a"]),
            "data.preparation.table.columns.c.outliers: only numbers have outliers; leave it out",
        ),
    ] {
        assert_eq!(applied(&spec, &values).unwrap_err().to_string(), want);
    }
}

#[test]
fn columns_of_whole_numbers_stay_whole() {
    let spec = Column {
        type_: Some(ColumnType::Integer),
        outliers: Some(Outliers {
            method: OutlierMethod::ZScore,
            distance: Some(1.0),
            action: OutlierAction::Clip,
        }),
        ..missing(Missing::Mean, None)
    };
    // Mean 4.5, deviation 4.1: bounds at 0.4 and 8.6.
    let values = numbers(&[1.0, 2.0, f64::NAN, 4.0, 11.0]);
    let (values, _) = applied(&spec, &values).unwrap();
    assert_eq!(values, numbers(&[1.0, 2.0, 5.0, 4.0, 9.0]));
}

#[test]
fn a_rule_is_read_as_it_was_written_and_told() {
    let values = numbers(&[1.0, 2.0, 3.0, 4.0, 100.1]);
    let mut statistics = Statistics::like(&values, Wanted::default());
    statistics.extend(&values);
    let outliers =
        Outliers { method: OutlierMethod::IQR, distance: None, action: OutlierAction::Clip };
    let spec = Column { outliers: Some(outliers), ..missing(Missing::Mean, None) };
    let rule = ColumnRule::new("c", &spec, &statistics).unwrap();
    let text = serde_json::to_string(&rule).unwrap();
    assert_eq!(serde_json::from_str::<ColumnRule>(&text).unwrap(), rule, "{text}");
    assert_eq!(rule.describe(), "missing becomes 22.02; capped at -1 and 7");
    let mut values = numbers(&[f64::NAN, 9.0, 5.0, -3.0]);
    let mended = rule.apply(&mut values, &mut [true; 4]);
    assert_eq!(mended, Mended { filled: 1, capped: 2, dropped: 0 });
}

#[test]
fn values_out_of_range_are_malformed() {
    let spec = Column {
        min: Some(0.0),
        max: Some(10.0),
        type_: Some(ColumnType::Integer),
        ..Column::default()
    };
    for (value, want) in [
        (0.0, None),
        (-1.0, Some("is below min")),
        (10.0, None),
        (11.0, Some("is above max")),
        (2.5, Some("is not a whole number")),
    ] {
        assert_eq!(flaw(&spec, value), want, "{value}");
    }
}
