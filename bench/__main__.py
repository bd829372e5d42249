"""`make bench`: everything that is measured, one after the other."""

from bench import gguf_header, overhead, transfer

overhead.main()
gguf_header.main()
transfer.main()
