//! Traffic in shares: canaries, users and copies, and what is counted of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use bytes::Bytes;
use hearth_crds::routing::{
    CANARY, Measure, Measured, Outcomes, RoutingTable, SHADOW, STABLE, Scaling, Shadow, Split,
    Variant, VariantFigures,
};
use hearth_gateway::table::Table;

use crate::support::{Running, backend, get, raw, soon, status, to};

/// A backend that says this, and counts its requests.
async fn saying(code: StatusCode) -> (SocketAddr, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let answer = any(move |_: Bytes| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { code }
    });
    (backend(Router::new().fallback(answer)).await, asked)
}

/// `weight` percent of the traffic to `canary`.
fn split(stable: SocketAddr, canary: SocketAddr, weight: u32) -> RoutingTable {
    let mut table = to(stable);
    table.variants[0].weight = 100 - weight;
    table.variants.push(Variant {
        name: CANARY.into(),
        revision: "r2".into(),
        backend: canary.to_string(),
        weight,
    });
    table.measure = Some(Measure { id: "r2/0".into(), interval_seconds: 60 });
    table
}

async fn measured(gateway: &Running) -> Measured {
    let answer = raw(gateway.admin, &get("/measured")).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

async fn figures(gateway: &Running, name: &str) -> VariantFigures {
    let measured = measured(gateway).await;
    measured.variants.into_iter().find(|variant| variant.name == name).unwrap()
}

fn from_user(user: &str) -> String {
    get("/v1/classify").replace("\r\n\r\n", &format!("\r\nX-User-Id: {user}\r\n\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_and_its_failures_are_counted() {
    let ((good, _), (bad, _)) =
        (saying(StatusCode::OK).await, saying(StatusCode::INTERNAL_SERVER_ERROR).await);
    let gateway = Running::start(Some(split(good, bad, 25))).await;
    for _ in 0..400 {
        gateway.raw(&get("/v1/classify")).await;
    }
    let (stable, canary) = (figures(&gateway, STABLE).await, figures(&gateway, CANARY).await);
    assert_eq!(stable.assigned + canary.assigned, 400);
    // Five standard deviations of a fair draw.
    assert!((57..=143).contains(&canary.assigned), "{}", canary.assigned);
    assert_eq!(canary.total.failed, canary.total.requests);
    assert_eq!((stable.total.failed, stable.total.requests), (0, stable.assigned));
    assert!(canary.total.latencies.quantile(0.95).unwrap() < 10.0);
    assert_eq!(canary.window, canary.total);

    // A table that changes limits alone goes on counting; the next step begins anew.
    let mut next = split(good, bad, 25);
    next.limits.max_body_bytes += 1;
    gateway.state.route_by(Table::check(next.clone()).unwrap());
    assert_eq!(figures(&gateway, CANARY).await, canary);
    next.measure.as_mut().unwrap().id = "r2/1".into();
    gateway.state.route_by(Table::check(next).unwrap());
    assert_eq!(figures(&gateway, CANARY).await.assigned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_cannot_be_reached_has_failed_and_the_stable_variant_answers() {
    let (good, _) = saying(StatusCode::OK).await;
    // Nobody listens on a port that was just given back.
    let nobody = crate::support::listen().await.local_addr().unwrap();
    for weight in [100, 99] {
        let gateway = Running::start(Some(split(good, nobody, weight))).await;
        for _ in 0..3 {
            let answer = gateway.raw(&get("/")).await;
            assert!(status(&answer) == 200 && answer.contains("x-hearth-revision: r1"), "{answer}");
        }
        let (stable, canary) = (figures(&gateway, STABLE).await, figures(&gateway, CANARY).await);
        assert_eq!(canary.total.requests + stable.total.requests, 3);
        assert!(canary.total.failed >= 2 && canary.total.failed == canary.total.requests);
        assert_eq!(stable.total.failed, 0);
        assert!(gateway.figure("hearth_gateway_fallbacks_total") >= 2.0);
    }
    let gateway = Running::start(Some(to(nobody))).await;
    assert_eq!(status(&gateway.raw(&get("/")).await), 502, "nobody is left to answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_keep_their_variant_and_their_outcomes_find_it() {
    let ((old, _), (new, _)) = (saying(StatusCode::OK).await, saying(StatusCode::OK).await);
    let mut table = split(old, new, 50);
    table.split = Split::User { header: "x-user-id".into(), salt: "shop/r2".into() };
    let gateway = Running::start(Some(table)).await;
    let mut canaries = Vec::new();
    for user in 0..60 {
        let user = format!("user-{user}");
        let of = |answer: &str| answer.contains("x-hearth-revision: r2");
        let first = of(&gateway.raw(&from_user(&user)).await);
        assert_eq!(of(&gateway.raw(&from_user(&user)).await), first, "{user}");
        canaries.extend(first.then_some(user));
    }
    assert!((10..50).contains(&canaries.len()), "{}", canaries.len());
    let anonymous = gateway.raw(&get("/v1/classify")).await;
    assert!(anonymous.contains("x-hearth-revision: r1"), "{anonymous}");
    let (stable, canary) = (figures(&gateway, STABLE).await, figures(&gateway, CANARY).await);
    assert_eq!(canary.assigned, 2 * canaries.len() as u64);
    assert_eq!(stable.assigned + canary.assigned, 120, "who has no name is not counted");
    for (figures, users) in [(&stable, 60 - canaries.len()), (&canary, canaries.len())] {
        assert!((figures.users.estimate() - users as f64).abs() < 0.5, "{users}");
    }

    let post = |body: &str| {
        format!(
            "POST /hearth/outcomes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let one = format!(r#"{{"user": "{}", "success": true}}"#, canaries[0]);
    assert_eq!(status(&gateway.raw(&post(&one)).await), 204);
    let many = format!(r#"[{one}, {{"user": "{}", "success": false}}]"#, canaries[1]);
    assert_eq!(status(&gateway.raw(&post(&many)).await), 204);
    let outcomes = figures(&gateway, CANARY).await.outcomes;
    assert_eq!(outcomes, Outcomes { reported: 3, succeeded: 2 });

    let bad = gateway.raw(&post(r#"{"user": 7}"#)).await;
    assert!(status(&bad) == 400 && bad.contains("an outcome is"), "{bad}");
    assert_eq!(status(&gateway.raw(&get("/hearth/outcomes")).await), 405);
    gateway.state.route_by(Table::check(to(old)).unwrap());
    let over = gateway.raw(&post(&one)).await;
    assert!(status(&over) == 404 && over.contains("ABTest"), "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_measured_and_no_client_sees_them() {
    let ((old, _), (new, copied)) =
        (saying(StatusCode::OK).await, saying(StatusCode::INTERNAL_SERVER_ERROR).await);
    let mut table = to(old);
    table.shadow = Some(Shadow { revision: "r2".into(), backend: new.to_string(), percent: 100 });
    table.measure = Some(Measure { id: "r2/0".into(), interval_seconds: 60 });
    let gateway = Running::start(Some(table)).await;
    for _ in 0..20 {
        assert_eq!(status(&gateway.raw(&get("/v1/classify")).await), 200);
    }
    soon(async {
        while figures(&gateway, SHADOW).await.total.requests < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let shadow = figures(&gateway, SHADOW).await;
    assert_eq!((shadow.assigned, shadow.total.failed), (20, 20));
    assert_eq!(copied.load(Ordering::Relaxed), 20);
    assert_eq!(figures(&gateway, STABLE).await.total.failed, 0);

    // A body that was not kept is not copied.
    let large = "x".repeat(100 << 10);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{large}",
        large.len()
    );
    assert_eq!(status(&gateway.raw(&request).await), 200);
    assert!(gateway.figure("hearth_gateway_shadow_skipped_total") >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_first_server_and_is_seen_to_wait() {
    let address = crate::support::listen().await.local_addr().unwrap();
    let mut table = to(address);
    table.scaling = Some(Scaling { window_seconds: 60, hold_seconds: 15 });
    let gateway = Running::start(Some(table)).await;
    let state = Arc::clone(&gateway.state);
    tokio::spawn(async move { state.mark_windows().await });
    let at = gateway.address;
    let waiting = tokio::spawn(async move { raw(at, &get("/v1/classify")).await });
    // Longer than attempts alone would take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let load = measured(&gateway).await.loads.remove(0);
    assert!(load.revision == "r1" && load.recent > 0.4, "{load:?}");
    assert!(!waiting.is_finished());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let router = Router::new().fallback(any(async || "awake"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let answer = soon(waiting).await.unwrap();
    assert!(status(&answer) == 200 && answer.ends_with("awake"), "{answer}");
    assert!(gateway.figure("hearth_gateway_in_flight_requests") < 1.0);
}
