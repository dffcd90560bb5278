"""`mlx-hf-bridge push`: upload a converted folder to the Hub, with a model card."""

import argparse

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.pretrained.hub import card_of_folder, files_of_folder, push_folder


def run(args: argparse.Namespace) -> int:
    """Upload the folder and print the address of the commit; with --dry-run show what would be uploaded."""
    files = files_of_folder(args.folder)
    size = sum(files.values())
    facts = {"folder": args.folder, "repo": args.repo, "files": files, "bytes": size}
    if args.dry_run:
        card = str(card_of_folder(args.folder, args.repo))
        if args.json:
            show_json({**facts, "url": None, "card": card})
        else:
            rows = [f"  {_size(number):>10}  {name}" for name, number in files.items()]
            show(f"{args.repo}: would get {len(files)} files, {size / MB:.1f} MB", *rows, "", card.rstrip())
        return 0
    options = {"private": args.private or None, "revision": args.revision, "create_pr": args.create_pr}
    url = push_folder(args.folder, args.repo, commit_message=args.message, **options)
    if args.json:
        show_json({**facts, "url": url})
    else:
        show(f"{args.folder}: {len(files)} files, {size / MB:.1f} MB uploaded", url)
    return 0


def _size(size: int) -> str:
    return f"{size / MB:.1f} MB" if size >= MB / 10 else f"{size / 1024:.1f} kB"
