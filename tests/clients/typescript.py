"""Published TypeScript types as a judge of our JSON: what their owners' compiler would say if a person had written it down."""

from service import run

OPTIONS = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]


def problems(folder, sdk, modules):
    """What the compiler says of the modules (texts by name); empty if nothing."""
    (folder / "node_modules").symlink_to(sdk / "node_modules")
    for name, text in modules.items():
        (folder / f"{name}.ts").write_text(text, encoding="utf-8")
    compiler = sdk / "node_modules" / "typescript" / "bin" / "tsc"
    done = run("node", compiler, *OPTIONS, *sorted(folder.glob("*.ts")), check=False, cwd=folder)
    return done.stdout if done.returncode else ""
