"""``weirgate top``: ``rates`` makes rows of two looks, ``screen`` draws, ``run`` drives."""
