//! `#[ignite::main]`. By hand and without dependencies, since all it needs is the handler's name.

use proc_macro::{TokenStream, TokenTree};

/// Makes `async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse>` the program.
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
        Some(name) if is_async && name != "main" => format!(
            "fn main() -> ::std::process::ExitCode {{ ::ignite::run({name}) }}"
        ),
        _ => "compile_error!(\"#[ignite::main] goes on `async fn handler(req: Request, ctx: Context)`, with any name but main\");"
            .to_owned(),
    };
    let more: TokenStream = more.parse().expect("it is Rust");
    item.into_iter().chain(more).collect()
}
