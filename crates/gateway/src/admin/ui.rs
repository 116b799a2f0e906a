//! The page shown instead of the dashboard, in a build without one.

use axum::response::Html;

/// Says where to look instead.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

const PAGE: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<title>keypool</title>
<h1>keypool is running</h1>
<p>This build has no dashboard yet. The messages at start-up say where to read the state of every key, and where to
find the admin token that this requires.</p>
</html>
";
