from viewed import dumped, write_lines

from recipe.cxr_grpo.viewing import terminal


def test_a_pipe_gets_the_latest_answers_worst_first(tmp_path, capsys):
    for step, score in ((0, 0.0), (5, 0.75)):
        rows = [
            dumped("a", "grounding", "[0.1, 0.2, 0.5, 0.6] and [0.7, 0.7, 0.8, 0.8]", score, box_iou=0.5),
            dumped("r", "report", "<think>a shadow</think>The [bold]heart[/bold]\x1b[2J", 0.25),
        ]
        write_lines(tmp_path / "validation" / f"{step}.jsonl", rows)
    terminal.view([tmp_path], 100, 0)
    said = capsys.readouterr().out
    assert said.index("step 5 · r") < said.index("step 5 · a")
    assert "step 0" not in said
    assert "The [bold]heart[/bold]\N{REPLACEMENT CHARACTER}[2J" in said
    assert "\x1b" not in said
    assert "box_iou 0.5  IoU [1.0]" in " ".join(said.split("\n"))
    assert "a shadow" not in said
