"""Numbers of faces in the rows of videos."""

from collections import defaultdict

from videos import rows_at

from fer.labels.tracks import number_faces
from fer.vision.tracking import Tracker


def test_tracks_cross_the_chunks_of_a_video():
    places = [[10.0 + 4 * number, 300.0 - 4 * number] for number in range(30)]
    whole = rows_at(places)
    number_faces(whole, defaultdict(Tracker))
    trackers, parts = defaultdict(Tracker), [rows_at(places[:12]), rows_at(places[12:], 12)]
    for rows in parts:
        number_faces(rows, trackers)
    assert [row["track"] for rows in parts for row in rows] == [row["track"] for row in whole]
    assert {row["track"] for row in whole} == {0, 1}


def test_rows_without_a_frame_or_a_face_have_no_track():
    rows = rows_at([[10.0]])
    photo = {**rows[0], "image": "/a.jpg", "frame": None, "time_seconds": None}
    empty = {**rows[0], "frame": 1, "time_seconds": 0.2, "face": None, "box": None}
    number_faces(rows := [photo, *rows, empty], defaultdict(Tracker))
    assert [row["track"] for row in rows] == [None, 0, None]
