"""FER+ votes beside a table: they belong to its rows, or are refused."""

import pyarrow.parquet as pq

from fer.data.ferplus import VOTE_COLUMNS
from fer.data.synthetic import USAGES


def write_votes(path, drawn, rows=None):
    lines = [
        f"{USAGES[split]},fer{number:07d}.png,{','.join(['0', '10', *'00000000'])}"
        for number, split in enumerate(drawn.splits[:rows])
    ]
    path.write_text("\n".join(["Usage,Image name," + ",".join(VOTE_COLUMNS), *lines]) + "\n")
    return path


def test_votes_join_the_rows_of_the_table(fer, sources, drawn, tmp_path):
    votes = write_votes(tmp_path / "fer2013new.csv", drawn)
    lines = votes.read_text().splitlines()
    lines[5] = lines[5].replace(",0,10,0,", ",3,6,1,")
    votes.write_text("\n".join(lines))
    source = ("--source", sources / "fer2013.csv", "--votes", votes)
    assert fer("ingest", *source, "--output", tmp_path / "data").code == 0
    table = pq.read_table(tmp_path / "data" / "examples").to_pylist()
    by_source = {row["source"].rpartition("#")[2]: row["votes"] for row in table}
    assert by_source["5"] == [3, 6, 1, 0, 0, 0, 0, 0, 0, 0]
    assert by_source["6"] == [0, 10, 0, 0, 0, 0, 0, 0, 0, 0]


def test_votes_of_other_rows_are_refused(fer, sources, drawn, tmp_path):
    def sentence(votes, source=sources / "fer2013.csv"):
        output = tmp_path / "data"
        arguments = ("--source", source, "--votes", votes, "--output", output, "--overwrite")
        run = fer("ingest", *arguments)
        assert run.code == 2
        assert not (output / "summary.json").exists()
        return run.sentence

    short = write_votes(tmp_path / "short.csv", drawn, rows=270)
    assert "votes end at row 270 but the CSV file goes on" in sentence(short)
    votes = write_votes(tmp_path / "votes.csv", drawn)
    content = votes.read_text()
    votes.write_text(content + content.splitlines()[-1] + "\n")
    assert "--votes has 281 rows and the CSV file has 280" in sentence(votes)
    votes.write_text(content.replace("PublicTest", "PrivateTest"))
    assert "is val in the CSV file and test in the votes" in sentence(votes)
    votes.write_text(content)
    assert "belong to the rows of FER2013's CSV file" in sentence(votes, sources / "faces.zip")
    assert "give that file" in sentence(votes, sources)
