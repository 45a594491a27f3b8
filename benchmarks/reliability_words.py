"""The words of docs/reliability.md: what is done in each section, and what counts as a fault."""

__all__ = ["BEGINNING", "END", "TITLES"]

TITLES: dict[str, tuple[str, str, str]] = {
    "mutations": (
        "Damaged checkpoints",
        "`torch.load` (`weights_only`) and `load_file`",
        """\
Eleven small checkpoints (safetensors from elsewhere and of our own, zip archives and files from before torch
1.6 with a state_dict, tied tensors or a whole training, shards) with anything changed: bits, bytes, lengths; a
safetensors header or an index edited as JSON; fields of zip headers; members moved, repeated, renamed or
compressed; operations of the pickle, with the checksums made right again. A fault is a crash, no end within 10
s, memory beyond 512 MiB, an exception that is no `RetrofitError`, or other tensors from a file whose checksums
were not made right.""",
    ),
    "hostile": (
        "Hostile checkpoints",
        "`pickle.load`, `torch.load(weights_only=False)`",
        """\
Pickles that run something when they are loaded, and pickles of some kilobytes that take memory or time without
end, each as a zip archive, as a file from before torch 1.6, bare, beside good weights in a training checkpoint,
and as one shard of two. A fault is one that ran, or one that took more than 10 s or 512 MiB.""",
    ),
    "flips": (
        "One bit flipped",
        "`torch.load` (`weights_only`) and `load_file`",
        """\
In outputs of bnretrofit and in zip archives of torch.save. A fault is anything but a refusal or the same names,
dtypes, shapes and bits; of the other readers, only other tensors without a word are counted.""",
    ),
    "kills": (
        "kill -9 while an output is published",
        "a writer straight to the output",
        """\
Over an old output of 4 MiB, at moments spread over the whole of it. A fault is anything but the old file or the
new one, whole, or something that the next command leaves in the folder.""",
    ),
    "disks": (
        "A full disk",
        "a writer straight to the output",
        """\
Files cannot grow beyond a limit, from nothing to the whole output. A fault is anything but the old file, exit
code 5 and a clean folder; where there is room, the new file.""",
    ),
    "rivals": (
        "Two writers at once",
        "writers straight to the output",
        """\
With and without leave to overwrite, with and without an output before, and two processes that read it all the
while. A fault is an output that is not whole or of no winner, two winners without leave to overwrite, an error
that is not about the other writer or the output that exists, or a reader that sees anything but one writer's
whole file.""",
    ),
    "signals": (
        "Ctrl-C and SIGTERM during `retrofit`",
        "a command that takes no care",
        """\
At random moments, half with a worker that decodes images, half over an old output. A fault is a part of an
output, a process that lives on, a traceback, or an exit code other than 130, or 0 with the whole output.""",
    ),
    "trainings": (
        "kill -9 during `finetune`, then `--resume`",
        "a script that saves the weights after each epoch",
        """\
At random moments from the first file in the run's folder on, with the state saved after each epoch, every three steps
and every step; with mixup and an average of the weights, with AdamW and frozen statistics; with and without a worker
that decodes images, before the kill and after. A fault is an exit code other than 0, or other bytes in
`best.safetensors`, `last.safetensors` or `summary.csv` than an undisturbed run leaves.""",
    ),
}
"""Of each section: its title, what it is compared with, and what is done."""

BEGINNING = """\
# Reliability

What was done to checkpoints, outputs and the command, how often, and what came of it. Written by

    python -m benchmarks.reliability

from the records in `benchmarks/results/reliability.jsonl`. Each row has a control: the same done to code that takes no
care, which shows that a fault would have been seen. A slice of each row is among the tests (`tests/reliability/`)."""

END = """\
## A case again

Damaged checkpoints and flips are numbered, and a number gives the same file each time. This one was a fault: the bit
marked a tensor's data as a folder, from which torch reads nothing.

    python -m benchmarks.reliability --only flips --replay 1155"""
