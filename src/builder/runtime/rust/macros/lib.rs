//! `#[ignite::main]`. By hand and without dependencies, since all it needs is the handler's name and
//! whether it is async.

use proc_macro::{TokenStream, TokenTree};

/// Makes `fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse>`, async or not, what
/// the program serves.
///
/// It writes `pub fn main`, which a program begins with, and which the platform's own program calls
/// where the handler is in a library.
#[proc_macro_attribute]
pub fn main(_: TokenStream, item: TokenStream) -> TokenStream {
    let mut tokens = item.clone().into_iter();
    let mut is_async = false;
    let mut name = None;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word.to_string() == "async" => is_async = true,
            TokenTree::Ident(word) if word.to_string() == "fn" => {
                name = tokens.next().map(|token| token.to_string());
                break;
            }
            _ => {}
        }
    }
    let more = match name {
        Some(name) if name != "main" => program(&name, is_async),
        _ => "compile_error!(\"#[ignite::main] goes on `async fn handler(req: Request, ctx: Context)`, with any name but main\");"
            .to_owned(),
    };
    let more: TokenStream = more.parse().expect("it is Rust");
    item.into_iter().chain(more).collect()
}

/// A program that serves the function of this name.
fn program(name: &str, is_async: bool) -> String {
    let (call, outcome) = if is_async {
        ("async move", format!("{name}(req, ctx).await"))
    } else {
        (
            "::ignite::__private::blocking(move ||",
            format!("{name}(req, ctx)"),
        )
    };
    let end = if is_async { "" } else { ")" };
    format!(
        r#"
/// Serves the handler.
#[allow(unused_imports)]
pub fn main() -> ::std::process::ExitCode {{
    use ::ignite::__private::{{ByAxum as _, ByPrelude as _}};
    ::ignite::__private::serve(|req, ctx| {call} {{
        match {outcome} {{
            ::std::result::Result::Ok(value) => {{
                let way = (&value).__ignite_answer();
                ::std::result::Result::Ok(way.of(value))
            }}
            ::std::result::Result::Err(error) => {{
                ::std::result::Result::Err(::ignite::__private::text(error))
            }}
        }}
    }}{end})
}}
"#
    )
}
