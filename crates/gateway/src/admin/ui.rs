//! The dashboard's place, in a build without one.

use axum::response::Html;

/// Says what there is instead.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

const PAGE: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<title>keypool</title>
<h1>keypool is running</h1>
<p>This build has no dashboard yet. The program said at its start where the state of every key can be read, and
where the admin token is that this asks for.</p>
</html>
";
