//! The rules of dependencies between modules: they point one way, floor by floor, and no two files
//! of a module need each other unless one is the other's parent.
//!
//! Read from the source with `syn`: a file depends on the file that defines a name, however many
//! re-exports lie between. Method calls name no type, so a method that lives in another file than
//! its type is not seen; test modules are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, File, ImplItemFn, Item, ItemMod, ItemUse, Meta, UseTree,
    visit::{self, Visit},
};

/// The modules of the crate, bottom first: each uses only those before it. A new one gets a line
/// here, as low as what it needs allows.
const FLOORS: &[&str] = &[
    "model",
    "metrics",
    "trace",
    "child",
    "clock",
    "connections",
    "atomic_file",
    "tree_size",
    "backoff",
    "quota",
    "relay",
    "vitals",
    "fair_limiter",
    "parse_pool",
    "config",
    "resolver",
    "audit",
    "tls",
    "identity",
    "store",
    "engine",
    "builder",
    "fleet",
    "gc",
    "gateway",
    "executor",
    "apps",
    "logs",
    "test_runs",
    "api",
    "server",
    "cli",
];

/// The path of a module from the crate's root; empty for the root.
type Module = Vec<String>;

/// The names in one module.
#[derive(Default)]
struct Names {
    /// Defined here.
    items: BTreeSet<String>,
    /// Imported by `use`, with the paths they stand for: a function and a module may share one.
    imports: BTreeMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
    /// Every path that stands in the module.
    paths: BTreeSet<Vec<String>>,
}

#[derive(Default)]
struct Crate {
    names: BTreeMap<Module, Names>,
    files: BTreeMap<Module, PathBuf>,
}

/// Reads one file into a [`Crate`].
struct Reader<'a> {
    into: &'a mut BTreeMap<Module, Names>,
    at: Module,
}

impl Reader<'_> {
    fn names(&mut self) -> &mut Names {
        self.into.entry(self.at.clone()).or_default()
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, defines): (&[Attribute], _) = match item {
            Item::Const(x) => (&x.attrs, Some(&x.ident)),
            Item::Enum(x) => (&x.attrs, Some(&x.ident)),
            Item::Fn(x) => (&x.attrs, Some(&x.sig.ident)),
            Item::Impl(x) => (&x.attrs, None),
            Item::Macro(x) => (&x.attrs, x.ident.as_ref()),
            Item::Mod(x) => (&x.attrs, None),
            Item::Static(x) => (&x.attrs, Some(&x.ident)),
            Item::Struct(x) => (&x.attrs, Some(&x.ident)),
            Item::Trait(x) => (&x.attrs, Some(&x.ident)),
            Item::Type(x) => (&x.attrs, Some(&x.ident)),
            Item::Use(x) => (&x.attrs, None),
            _ => (&[], None),
        };
        if is_test(attributes) {
            return;
        }
        if let Some(name) = defines {
            self.names().items.insert(name.to_string());
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, method: &'ast ImplItemFn) {
        if !is_test(&method.attrs) {
            visit::visit_impl_item_fn(self, method);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let Some((_, items)) = &module.content else {
            return;
        };
        self.at.push(module.ident.to_string());
        self.names();
        items.iter().for_each(|item| self.visit_item(item));
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        flatten(&item.tree, &mut Vec::new(), &mut |name, path| {
            let names = self.names();
            match name {
                Some(name) => names.imports.entry(name).or_default().push(path.clone()),
                None => names.globs.push(path.clone()),
            }
            names.paths.insert(path);
        });
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|s| s.ident.to_string());
        let segments = segments.collect();
        self.names().paths.insert(segments);
        visit::visit_path(self, path);
    }
}

/// Calls `found` with every name that a `use` imports and its path; `None` for a glob.
fn flatten(
    tree: &UseTree,
    prefix: &mut Vec<String>,
    found: &mut impl FnMut(Option<String>, Vec<String>),
) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, found);
            }
        }
        UseTree::Glob(_) => found(None, prefix.clone()),
        UseTree::Name(name) if name.ident == "self" => {
            found(prefix.last().cloned(), prefix.clone());
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            let path = [prefix.as_slice(), std::slice::from_ref(&name)].concat();
            found(Some(name), path);
        }
        UseTree::Rename(rename) => {
            let mut path = prefix.clone();
            if rename.ident != "self" {
                path.push(rename.ident.to_string());
            }
            found(Some(rename.rename.to_string()), path);
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string().contains("test"),
        meta => meta
            .path()
            .segments
            .last()
            .is_some_and(|s| s.ident == "test"),
    })
}

impl Crate {
    fn read() -> Self {
        let mut read = Self::default();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
        read.file(&root, Module::new());
        read
    }

    fn file(&mut self, path: &Path, at: Module) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file: File =
            syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut reader = Reader {
            into: &mut self.names,
            at: at.clone(),
        };
        reader.names();
        reader.visit_file(&file);
        self.files.insert(at.clone(), path.to_owned());
        let folder = if path.ends_with("mod.rs") || path.ends_with("lib.rs") {
            path.parent().expect("a file has a folder").to_owned()
        } else {
            path.with_extension("")
        };
        for item in &file.items {
            if let Item::Mod(module) = item
                && module.content.is_none()
                && !is_test(&module.attrs)
            {
                let name = module.ident.to_string();
                let alone = folder.join(format!("{name}.rs"));
                let path = if alone.exists() {
                    alone
                } else {
                    folder.join(&name).join("mod.rs")
                };
                self.file(&path, [at.clone(), vec![name]].concat());
            }
        }
    }

    /// The path from the crate's root; `None` for one outside the crate.
    fn absolute(&self, at: &Module, path: &[String]) -> Option<Vec<String>> {
        let (first, mut rest) = path.split_first()?;
        let mut base = at.clone();
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop()?;
                while let Some((next, left)) = rest.split_first()
                    && next == "super"
                {
                    base.pop()?;
                    rest = left;
                }
            }
            _ => {
                let names = self.names.get(at)?;
                let child = [at.clone(), vec![first.clone()]].concat();
                let known = self.names.contains_key(&child)
                    || names.items.contains(first)
                    || names.imports.contains_key(first);
                if !known {
                    return None;
                }
                rest = path;
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The module that defines what an absolute path names; `None` when another crate does.
    fn definition(&self, path: &[String], depth: u32) -> Option<Module> {
        // Re-exports that lead in a circle are an error of the compiler's, not of this test.
        if depth > 16 {
            return None;
        }
        let is_module = |n: &usize| self.names.contains_key(&path[..*n]);
        let known = (0..=path.len()).rev().find(is_module)?;
        let (module, rest) = (path[..known].to_vec(), &path[known..]);
        let Some((name, rest)) = rest.split_first() else {
            return Some(module);
        };
        let names = &self.names[&module];
        if names.items.contains(name) {
            return Some(module);
        }
        if let Some(imports) = names.imports.get(name) {
            let through = imports.iter().filter_map(|import| {
                let whole = [self.absolute(&module, import)?.as_slice(), rest].concat();
                (whole != path).then_some(whole)
            });
            return through
                .into_iter()
                .find_map(|p| self.definition(&p, depth + 1));
        }
        let through = names.globs.iter().find_map(|glob| {
            let glob = self.absolute(&module, glob)?;
            let whole = [glob.as_slice(), std::slice::from_ref(name), rest].concat();
            self.definition(&whole, depth + 1).filter(|m| *m != module)
        });
        Some(through.unwrap_or(module))
    }

    /// The module that is a file of its own and contains `module`.
    fn file_of(&self, module: &Module) -> Module {
        let mut module = module.clone();
        while !self.files.contains_key(&module) {
            module.pop();
        }
        module
    }

    /// For each file, the files it uses, with the paths by which it uses them.
    fn uses(&self) -> BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>> {
        let mut uses: BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>> = BTreeMap::new();
        for (module, names) in &self.names {
            let from = self.file_of(module);
            for path in &names.paths {
                let to = self.absolute(module, path);
                let Some(to) = to.and_then(|path| self.definition(&path, 0)) else {
                    continue;
                };
                let to = self.file_of(&to);
                if from != to && !to.is_empty() {
                    let by = uses.entry(from.clone()).or_default().entry(to).or_default();
                    by.insert(path.join("::"));
                }
            }
        }
        uses
    }
}

/// One use of a file by another, for the message of a failed test.
fn use_line(from: &Module, to: &Module, by: &BTreeSet<String>) -> String {
    format!("{} uses {} by {by:?}", from.join("::"), to.join("::"))
}

#[test]
fn modules_use_only_those_on_floors_below() {
    let of = Crate::read();
    let top: BTreeSet<&str> = of
        .files
        .keys()
        .filter_map(|m| Some(m.first()?.as_str()))
        .collect();
    let listed: BTreeSet<&str> = FLOORS.iter().copied().collect();
    assert_eq!(top, listed, "FLOORS names every module of the crate once");
    let floor = |name: &String| FLOORS.iter().position(|f| f == name);
    let mut wrong = Vec::new();
    for (from, to) in of.uses() {
        for (to, by) in to {
            let (Some(user), Some(used)) = (from.first(), to.first()) else {
                continue;
            };
            if user != used && floor(user) < floor(used) {
                wrong.push(use_line(&from, &to, &by));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_two_files_need_each_other_but_parent_and_child() {
    let of = Crate::read();
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let uses: BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>> = of
        .uses()
        .into_iter()
        .map(|(from, mut to)| {
            to.retain(|to, _| from.first() == to.first() && !related(&from, to));
            (from, to)
        })
        .collect();
    let none = BTreeMap::new();
    let next = |m: &Module| uses.get(m).unwrap_or(&none);
    let reached = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&Module> = next(from).keys().collect();
        while let Some(module) = todo.pop() {
            if seen.insert(module.clone()) {
                todo.extend(next(module).keys());
            }
        }
        seen
    };
    let reaches: BTreeMap<&Module, BTreeSet<Module>> =
        uses.keys().map(|m| (m, reached(m))).collect();
    let mut wrong = Vec::new();
    for (from, to) in &uses {
        for (to, by) in to {
            if reaches.get(to).is_some_and(|r| r.contains(from)) {
                wrong.push(use_line(from, to, by));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these go round in circles:\n{}",
        wrong.join("\n")
    );
}
