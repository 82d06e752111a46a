"""What is computed of one block: a function of the context and a block's index that writes into the store.

May use `store` and `context`, and says with `schedule.flow` what a block needs. Knows no client and no other worker;
called twice, a task writes the same bits.
"""
