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
<p>This build has no dashboard yet. The state of every key:</p>
<pre>curl -H \"Authorization: Bearer $(cat keypool.admin-token)\" http://127.0.0.1:8080/api/keys/stats</pre>
<p>The admin token stands where the program said at start.</p>
</html>
";
