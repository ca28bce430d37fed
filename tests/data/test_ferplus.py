import pytest

from fer.data.ferplus import VOTE_COLUMNS, read_votes
from fer.errors import InputError

HEADER = "Usage,Image name," + ",".join(VOTE_COLUMNS)


def write(path, *rows):
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return str(path)


def test_votes_on_a_row(tmp_path):
    votes = read_votes(
        write(
            tmp_path / "fer2013new.csv",
            "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
            "PublicTest,fer0028709.png,0,6,0,1,1,0,0,0,1,1",
        )
    )
    assert len(votes) == 2
    assert votes.for_row(2, "val").tolist() == [0, 6, 0, 1, 1, 0, 0, 0, 1, 1]


def test_rejects_a_row_of_another_split_or_beyond_the_end(tmp_path):
    votes = read_votes(write(tmp_path / "votes.csv", "Training,x.png,4,0,0,1,3,2,0,0,0,0"))
    with pytest.raises(InputError, match="Row 1 is test in the CSV file and train in the votes"):
        votes.for_row(1, "test")
    with pytest.raises(InputError, match="votes end at row 1 but"):
        votes.for_row(2, "train")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        f"{HEADER}\nTraining,x,a,b,c,d,e,f,g,h,i,j\n",
        f"{HEADER}\n,x,4,0,0,1,3,2,0,0,0,0\n",
    ],
)
def test_rejects_files_without_votes(tmp_path, content):
    path = tmp_path / "votes.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"holds no FER\+ votes: expected a CSV file"):
        read_votes(str(path))
    with pytest.raises(InputError, match=r"holds no FER\+ votes"):
        read_votes(str(tmp_path / "none.csv"))
