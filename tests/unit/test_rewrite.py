"""One more key in a file, and everything else as it was."""

from a3s_power.build.rewrite import WithKey
from a3s_power.gguf import read_gguf, read_layout
from tests.support.gguf_files import F16, TensorSpec, write_gguf


def test_a_key_can_be_added_to_a_file(tmp_path):
    metadata = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    path = write_gguf(tmp_path / "m.gguf", metadata, {"a": TensorSpec((64, 3), F16), "b": TensorSpec((33,))})
    before = read_layout(path)
    work = WithKey(path, before, "clip.projector_type", "mlp")
    pieces = []
    work.write_to(pieces.append)
    data = b"".join(pieces)
    assert len(data) == work.size_bytes
    (tmp_path / "n.gguf").write_bytes(data)
    after = read_gguf(tmp_path / "n.gguf")
    assert after.metadata == {**before.gguf.metadata, "clip.projector_type": "mlp"}
    assert after.tensors == before.gguf.tensors
    assert data[after.data_offset :] == path.read_bytes()[before.gguf.data_offset :]
