"""`make bench`: everything that is measured, one after the other."""

from bench import concurrency, cores, gguf_header, overhead, transfer

overhead.main()
gguf_header.main()
transfer.main()
cores.main()
concurrency.main()
